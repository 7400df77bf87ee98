"""Entropic optimal transport: Sinkhorn's iteration in the log domain, three costs and three gradients."""

from typing import Any, Literal, NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.numerics.checks import check_choice, check_count, check_floating, check_number, check_tensor
from lightning_losses.numerics.derivatives import first_derivatives_only, refuse_transforms
from lightning_losses.numerics.divergences import entropy
from lightning_losses.numerics.probabilities import full_precision, known_somewhere
from lightning_losses.numerics.regression import refuse_where

Gradient = Literal["unrolled", "envelope", "implicit"]

_SECOND = (
    "kl_cost: create_graph=True came through gradient='envelope', which has first derivatives only; give "
    "gradient='implicit' or 'unrolled'."
)

# Used as the logarithm of a weight of 0: far below any other, without an infinite gradient.
_LOG_ZERO = -1e5


class Transport(NamedTuple):
    """A transport plan between weights a and b, its potentials, and the problem that it solves.

    ``plan = a b^T exp((f + g - cost) / epsilon)``.
    """

    plan: Float[Tensor, "*batch n m"]
    f: Float[Tensor, "*batch n"]
    g: Float[Tensor, "*batch m"]
    cost: Float[Tensor, "*batch n m"]
    a: Float[Tensor, "*batch n"]
    b: Float[Tensor, "*batch m"]
    epsilon: float
    gradient: Gradient


def sinkhorn(
    cost: Float[Tensor, "*batch n m"],
    a: Float[Tensor, "*batch n"] | None = None,
    b: Float[Tensor, "*batch m"] | None = None,
    *,
    epsilon: float,
    n_iters: int = 100,
    tolerance: float | None = None,
    annealing: int = 0,
    gradient: Gradient = "implicit",
) -> Transport:
    """Entropic optimal transport by Sinkhorn's iteration in the log domain.

    Minimises ``<P, cost> + epsilon KL(P || a b^T)`` over plans P with row sums a and column sums b. An iteration
    updates the column potential g, then the row potential f; the first one begins with row scalings of 1. After each
    iteration row sums are exact; column sums converge about as fast as ``(1 - exp(-osc(cost) / epsilon))^k`` vanishes.

    Args:
        cost: [..., n, m], finite.
        a: [..., n] non-negative weights; 1 / n each by default.
        b: [..., m] non-negative weights of the same sum; 1 / m each by default.
        epsilon: the entropy's weight, above 0, in units of the cost. Below a hundredth of the largest cost, give
            `annealing`; in float32, stay above 1e-4 of it.
        n_iters: the number of iterations, or with a `tolerance` the largest number.
        tolerance: stop when the column sums are this close to b in the 2-norm. The test, at every tenth iteration,
            synchronises with the device. None runs all iterations without synchronising.
        annealing: number of additional iterations before, with an epsilon that begins at the cost's range and is halved
            each time.
        gradient: "unrolled" differentiates the iterations: it suits any function of the result and any number of
            iterations, but stores them all. "implicit" differentiates the converged plan, for any function of it.
            "envelope" is the cheapest, but only for `kl_cost` and `entropic_cost` after convergence; it has first
            derivatives only.

    Returns:
        The plan with its potentials, in float32 or wider.

    Raises:
        ValueError: shapes that do not fit, options out of range, an unknown gradient; on the CPU, infinite costs, and
            weights below 0 or with different sums.

    Source:
        Cuturi, 2013, "Sinkhorn Distances: Lightspeed Computation of Optimal Transport", arXiv:1306.0895; the log
        domain and its costs as in Peyré, Cuturi, 2019, "Computational Optimal Transport", arXiv:1803.00567; the order
        of updates as in POT's `sinkhorn_log`.

    Example:
        >>> cost = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
        >>> sinkhorn(cost, epsilon=0.1).plan.round(decimals=3)
        tensor([[0.5000, 0.0000],
                [0.0000, 0.5000]])
    """
    check_floating("sinkhorn", "cost", cost)
    check_number("sinkhorn", "epsilon", epsilon, above=0)
    check_count("sinkhorn", "n_iters", n_iters)
    check_count("sinkhorn", "annealing", annealing, zero="for none")
    if tolerance is not None:
        check_number("sinkhorn", "tolerance", tolerance, least=0)
    check_choice("sinkhorn", "gradient", gradient, get_args(Gradient))
    if cost.ndim < 2 or cost.numel() == 0:
        raise ValueError(f"sinkhorn: cost has shape {list(cost.shape)}; give [..., n, m] with n and m of at least 1.")
    cost = full_precision(cost)
    told = "that are finite; the largest plus 1000 epsilon forbids a pair"
    refuse_where(torch.isinf(cost.detach()), "sinkhorn", "cost", cost, told)
    a = _weights("a", a, cost, cost.shape[:-1])
    b = _weights("b", b, cost, (*cost.shape[:-2], cost.shape[-1]))
    masses = torch.stack([a.detach().sum(dim=-1), b.detach().sum(dim=-1)], dim=-1)
    apart = (masses[..., 0] - masses[..., 1]).abs() > 1e-3 * masses[..., 0]
    if known_somewhere(apart):
        of_a, of_b = masses[apart][0].tolist()
        raise ValueError(f"sinkhorn: a of sum {of_a:g} came with b of sum {of_b:g}; give both the same sum.")
    if gradient == "unrolled":
        f, g = _potentials(cost, a, b, epsilon, n_iters, tolerance, annealing)
        return Transport(_plan(cost, a, b, f, g, epsilon), f, g, cost, a, b, epsilon, gradient)
    refuse_transforms(f"sinkhorn: gradient={gradient!r}", "gradient='unrolled'")
    with torch.no_grad():
        f, g = _potentials(cost, a, b, epsilon, n_iters, tolerance, annealing)
        plan = _plan(cost, a, b, f, g, epsilon)
    if gradient == "implicit":
        plan = _Implicit.apply(cost, a, b, plan, epsilon)
    return Transport(plan, f, g, cost, a, b, epsilon, gradient)


def sharp_cost(transport: Transport) -> Float[Tensor, "*batch"]:
    """``<P, cost>``: the cost of the plan, without the entropy; POT's `sinkhorn2`.

    Raises:
        ValueError: a transport with gradient="envelope", which doesn't give this cost's gradient.

    Example:
        >>> cost = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
        >>> round(sharp_cost(sinkhorn(cost, epsilon=1.0)).item(), 4)
        0.2689
    """
    if transport.gradient == "envelope":
        raise ValueError(
            "sharp_cost: a transport with gradient='envelope' came, which is valid only for kl_cost and "
            "entropic_cost; give gradient='implicit' or 'unrolled'."
        )
    return (transport.plan * transport.cost).sum(dim=(-2, -1))


def kl_cost(transport: Transport) -> Float[Tensor, "*batch"]:
    """``<P, cost> + epsilon KL(P || a b^T)``: the minimum; geomloss's convention.

    With the envelope gradient it is the dual objective at the potentials; its derivatives are P (cost), f (a) and g
    (b).
    """
    plan, f, g, cost, a, b, epsilon, gradient = transport
    if gradient == "envelope":
        mass = _plan(cost, a, b, f, g, epsilon).sum(dim=(-2, -1))
        value = (a * f).sum(dim=-1) + (b * g).sum(dim=-1) - epsilon * (mass - a.sum(dim=-1) * b.sum(dim=-1))
        return first_derivatives_only(value, _SECOND)
    divergence = _entropy(a, plan.sum(dim=-1)) + _entropy(b, plan.sum(dim=-2)) - entropy(_safe_log(plan).flatten(-2))
    return (plan * cost).sum(dim=(-2, -1)) + epsilon * divergence


def entropic_cost(transport: Transport) -> Float[Tensor, "*batch"]:
    """``<P, cost> - epsilon H(P)``: Cuturi's convention; `kl_cost` minus ``epsilon (H(a) + H(b))``."""
    return kl_cost(transport) - transport.epsilon * (
        _entropy(transport.a, transport.a) + _entropy(transport.b, transport.b)
    )


def _weights(name: str, weights: Tensor | None, cost: Tensor, shape: Any) -> Tensor:
    if weights is None:
        return cost.new_full(tuple(shape), 1.0 / shape[-1])
    check_tensor("sinkhorn", name, weights)
    fits = weights.shape[-1:] == shape[-1:] and weights.ndim <= len(shape)
    # A batch of other weights would end in torch's own error.
    fits = fits and all(
        size in (1, of_cost) for size, of_cost in zip(weights.shape[-2::-1], shape[-2::-1], strict=False)
    )
    if not weights.is_floating_point() or not fits:
        raise ValueError(
            f"sinkhorn: {name} of shape {list(weights.shape)} and dtype {weights.dtype} came with a cost "
            f"of shape {list(cost.shape)}; give floating-point weights of shape {list(shape)}."
        )
    if known_somewhere(weights < 0):
        raise ValueError(f"sinkhorn: {name} came with a weight below 0; give weights of at least 0.")
    return weights.to(cost.dtype).expand(tuple(shape))


def _safe_log(weights: Tensor) -> Tensor:
    empty = weights == 0
    return weights.masked_fill(empty, 1.0).log().masked_fill(empty, _LOG_ZERO)


def _entropy(weights: Tensor, mass: Tensor) -> Tensor:
    return -(mass * _safe_log(weights)).sum(dim=-1)


def _plan(cost: Tensor, a: Tensor, b: Tensor, f: Tensor, g: Tensor, epsilon: float) -> Tensor:
    rows, columns = f / epsilon + _safe_log(a), g / epsilon + _safe_log(b)
    return (rows.unsqueeze(-1) + columns.unsqueeze(-2) - cost / epsilon).exp()


def _potentials(
    cost: Tensor, a: Tensor, b: Tensor, epsilon: float, n_iters: int, tolerance: float | None, annealing: int
) -> tuple[Tensor, Tensor]:
    log_a, log_b = _safe_log(a).unsqueeze(-1), _safe_log(b).unsqueeze(-2)
    # Begin with row scalings of 1, like POT.
    f, g = -epsilon * log_a.squeeze(-1), torch.zeros_like(b)

    def step(f: Tensor, epsilon: float | Tensor) -> tuple[Tensor, Tensor]:
        g = -torch.logsumexp((f.unsqueeze(-1) - cost) / epsilon + log_a, dim=-2, keepdim=True) * epsilon
        f = -torch.logsumexp((g - cost) / epsilon + log_b, dim=-1, keepdim=True) * epsilon
        return f.squeeze(-1), g.squeeze(-2)

    span = (cost.detach().amax(dim=(-2, -1)) - cost.detach().amin(dim=(-2, -1)))[..., None, None]
    for halving in range(annealing):
        f, g = step(f, (span * 0.5**halving).clamp(min=epsilon))
    for iteration in range(n_iters):
        f, g = step(f, epsilon)
        if tolerance is not None and iteration % 10 == 9:
            error = (_plan(cost, a, b, f, g, epsilon).sum(dim=-2) - b).norm(dim=-1).amax()
            if bool(error <= tolerance):
                break
    return f, g


class _Implicit(torch.autograd.Function):
    """The converged plan as a function of the cost and the weights, by the implicit function theorem.

    With W = G P for an incoming gradient G, solve ``[[diag(P 1), P], [P^T, diag(P^T 1)]] s = (W 1, W^T 1)``; then the
    gradient is ``-(W - P (s_r + s_c)) / epsilon`` for the cost, s_r for a, s_c for b.
    """

    @staticmethod
    def forward(ctx: Any, cost: Tensor, a: Tensor, b: Tensor, plan: Tensor, epsilon: float) -> Tensor:
        plan = plan.clone()
        # The output, which depends on the cost; so the gradient, a function of it, can be differentiated again.
        ctx.save_for_backward(plan)
        ctx.epsilon = epsilon
        return plan

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (plan,) = ctx.saved_tensors
        weighted = gradient * plan
        rows, columns = plan.sum(dim=-1), plan.sum(dim=-2)
        inverse = torch.where(rows > 0, 1.0 / torch.where(rows > 0, rows, 1.0), 0.0)
        scaled = plan * inverse.unsqueeze(-1)
        # A plan that falls into parts, as of a small epsilon, leaves more open; two units of rounding fix that.
        ridge = 1 + 2 * torch.finfo(plan.dtype).eps
        schur = torch.diag_embed(torch.where(columns > 0, columns * ridge, 1.0)) - plan.mT @ scaled
        # A constant may be moved between s_c and s_r; a rank-one term fixes it.
        schur = schur + columns.mean(dim=-1)[..., None, None] / columns.shape[-1]
        right = weighted.sum(dim=-2) - (scaled.mT @ weighted.sum(dim=-1, keepdim=True)).squeeze(-1)
        # Without the check of the solution, which would wait for the device.
        s_columns, _ = torch.linalg.solve_ex(schur, right)
        s_rows = (weighted.sum(dim=-1) - (plan @ s_columns.unsqueeze(-1)).squeeze(-1)) * inverse
        by_cost = -(weighted - plan * (s_rows.unsqueeze(-1) + s_columns.unsqueeze(-2))) / ctx.epsilon
        return by_cost, s_rows, s_columns, None, None
