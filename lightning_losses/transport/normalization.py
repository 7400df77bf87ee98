"""Normalises the rows and the columns of exp(-cost / epsilon) in turn, with an exact and cheap gradient."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.numerics.checks import check_count, check_floating, check_number
from lightning_losses.numerics.derivatives import in_transform
from lightning_losses.numerics.probabilities import full_precision

# Scalings reach exp(cost_bound / epsilon), and their products its square; both must not overflow.
_EXP_DOMAIN_LIMIT = {torch.float32: 40.0, torch.float64: 300.0}


def row_column_normalization(
    cost: Float[Tensor, "*batch n m"], *, epsilon: float, n_iters: int, cost_bound: float | None = None
) -> Float[Tensor, "*batch n m"]:
    """Normalise the rows, then the columns, of ``exp(-cost / epsilon)`` to sum 1, `n_iters` times.

    The result's columns sum to 1 exactly, its rows in the limit (for n = m). The gradient is that of these iterations,
    not of their limit. It is computed by a reverse sweep over the scalings, which stores 2 n_iters vectors instead of 2
    n_iters matrices. Second derivatives use autograd through the iterations.

    Args:
        cost: [..., n, m]; +inf forbids a pair, but a row or column must not be all +inf.
        epsilon: above 0.
        n_iters: number of iterations, at least 1.
        cost_bound: an upper bound on the range of each row's finite costs, if known. If ``cost_bound / epsilon`` is
            small enough for the dtype, plain scalings replace the log domain: the same values, several times faster.

    Returns:
        The plan, in float32 or wider.

    Raises:
        ValueError: a shape, an epsilon or a number of iterations out of range.

    Source:
        The iteration: Sinkhorn, Knopp, 1967; in this order, with unit sums, as in Cui et al., 2024, "Sinkhorn Distance
        Minimization for Knowledge Distillation", arXiv:2402.17110.

    Example:
        >>> plan = row_column_normalization(torch.rand(4, 4), epsilon=0.1, n_iters=20)
        >>> torch.allclose(plan.sum(dim=0), torch.ones(4))
        True
    """
    check_floating("row_column_normalization", "cost", cost)
    check_number("row_column_normalization", "epsilon", epsilon, above=0)
    check_count("row_column_normalization", "n_iters", n_iters)
    if cost.ndim < 2 or cost.numel() == 0:
        raise ValueError(
            f"row_column_normalization: cost has shape {list(cost.shape)}; give [..., n, m] with n and m of at least 1."
        )
    cost = full_precision(cost)
    if in_transform():
        return _iterations(cost, epsilon, n_iters)
    bounded = cost_bound is not None and cost_bound / epsilon <= _EXP_DOMAIN_LIMIT[cost.dtype]
    plan: Tensor = (_Scaling if bounded else _LogScaling).apply(cost, epsilon, n_iters)
    return plan


def _through_iterations(
    cost: Float[Tensor, "*batch n m"], gradient: Float[Tensor, "*batch n m"], epsilon: float, n_iters: int
) -> tuple[Tensor | None, ...]:
    """The gradient with respect to the cost, with its own graph."""
    plan = _iterations(cost, epsilon, n_iters)
    return *torch.autograd.grad(plan, cost, gradient, create_graph=True), None, None


def _iterations(cost: Float[Tensor, "*batch n m"], epsilon: float, n_iters: int) -> Float[Tensor, "*batch n m"]:
    """The plan, with all iterations for autograd to record."""
    scores = cost / -epsilon
    log_u, log_v = torch.zeros_like(scores[..., 0]), torch.zeros_like(scores[..., 0, :])
    for _ in range(n_iters):
        log_u = -torch.logsumexp(scores + log_v.unsqueeze(-2), dim=-1)
        log_v = -torch.logsumexp(scores + log_u.unsqueeze(-1), dim=-2)
    return (scores + log_u.unsqueeze(-1) + log_v.unsqueeze(-2)).exp()


def _multiply(matrix: Tensor, vector: Tensor, *, out: Tensor) -> Tensor:
    if matrix.ndim == 2:
        return torch.mv(matrix, vector, out=out)
    return out.copy_((matrix @ vector.unsqueeze(-1)).squeeze(-1))


class _Scaling(torch.autograd.Function):
    """``plan = u K v`` with ``u = 1 / (K v)``, ``v = 1 / (K^T u)`` in turn."""

    @staticmethod
    def forward(ctx: Any, cost: Tensor, epsilon: float, n_iters: int) -> Tensor:
        with torch.autocast(cost.device.type, enabled=False):
            # Row normalisation ignores a shift, so shift each row to a largest entry of 1.
            kernel = ((cost.amin(dim=-1, keepdim=True) - cost) / epsilon).exp_()
            turned = kernel.mT
            rows = kernel.new_empty(n_iters, *cost.shape[:-1])
            columns = kernel.new_ones(n_iters + 1, *cost.shape[:-2], cost.shape[-1])
            v = columns[0]
            for u, after in zip(rows, columns[1:], strict=True):
                _multiply(kernel, v, out=u).reciprocal_()
                v = _multiply(turned, u, out=after).reciprocal_()
            plan = (kernel * v.unsqueeze(-2)).mul_(rows[-1].unsqueeze(-1))
        ctx.save_for_backward(cost, kernel, plan, rows, columns)
        ctx.epsilon = epsilon
        return plan

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        cost, kernel, plan, rows, columns = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _through_iterations(cost, gradient, ctx.epsilon, len(rows))
        with torch.autocast(kernel.device.type, enabled=False):
            turned = kernel.mT
            weighted = gradient * plan
            d_u = weighted.sum(dim=-1) / rows[-1]
            d_v = weighted.sum(dim=-2) / columns[-1]
            by_columns, by_rows = torch.empty_like(columns[1:]), torch.empty_like(rows)
            through = torch.empty_like(d_u)
            steps = zip(rows, columns[1:], by_rows, by_columns, strict=True)
            for last, (u, v, by_u, by_v) in enumerate(reversed(list(steps))):
                # This order of products avoids the square of a scaling.
                torch.mul(d_v, v, out=by_v).mul_(v).neg_()
                _multiply(kernel, by_v, out=through)
                # Only the last row scaling reaches the plan directly, not only through the column scaling.
                d_u = d_u.add_(through) if last == 0 else through
                torch.mul(d_u, u, out=by_u).mul_(u).neg_()
                _multiply(turned, by_u, out=d_v)
            left = torch.cat([rows, by_rows]).movedim(0, -1)
            right = torch.cat([by_columns, columns[:-1]]).movedim(0, -2)
            by_kernel = left @ right
            by_cost = by_kernel.mul_(kernel).add_(weighted).mul_(-1.0 / ctx.epsilon)
        return by_cost, None, None


class _LogScaling(torch.autograd.Function):
    """The same with ``log u`` and ``log v``, for any range of the cost."""

    @staticmethod
    def forward(ctx: Any, cost: Tensor, epsilon: float, n_iters: int) -> Tensor:
        scores = cost / -epsilon
        log_v = torch.zeros_like(cost[..., 0, :])
        rows, columns = [], [log_v]
        for _ in range(n_iters):
            log_u = -torch.logsumexp(scores + log_v.unsqueeze(-2), dim=-1)
            log_v = -torch.logsumexp(scores + log_u.unsqueeze(-1), dim=-2)
            rows.append(log_u)
            columns.append(log_v)
        plan = _scaled(scores, log_u, log_v)
        ctx.save_for_backward(cost, plan, torch.stack(rows), torch.stack(columns))
        ctx.epsilon = epsilon
        return plan

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        cost, plan, rows, columns = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _through_iterations(cost, gradient, ctx.epsilon, len(rows))
        scores = cost / -ctx.epsilon
        by_scores = gradient * plan
        d_u, d_v = by_scores.sum(dim=-1), by_scores.sum(dim=-2)
        for k in reversed(range(len(rows))):
            share = _scaled(scores, rows[k], columns[k + 1]).mul_(d_v.unsqueeze(-2))
            d_u = d_u - share.sum(dim=-1)
            by_scores = by_scores - share
            share = _scaled(scores, rows[k], columns[k]).mul_(d_u.unsqueeze(-1))
            d_v = -share.sum(dim=-2)
            by_scores = by_scores - share
            d_u = torch.zeros_like(d_u)
        return by_scores / -ctx.epsilon, None, None


def _scaled(scores: Tensor, log_u: Tensor, log_v: Tensor) -> Tensor:
    return (scores + log_u.unsqueeze(-1)).add_(log_v.unsqueeze(-2)).exp_()
