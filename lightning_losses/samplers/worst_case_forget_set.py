"""The samples whose influence on a network is the hardest to erase, by which a method of unlearning is tried."""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lightning_losses.numerics.checks import check_count, check_number

# Halvings of an interval, after which float64 has no number between its ends.
_HALVINGS = 64


class ForgetSet(NamedTuple):
    """A set of samples to forget.

    Attributes:
        chosen: [n] the `size` samples of the largest weights.
        weights: [n] from 0 to 1, whose sum is `size`.
        losses: [n] of each sample after the last round of unlearning.
    """

    chosen: Bool[Tensor, " samples"]
    weights: Float[Tensor, " samples"]
    losses: Float[Tensor, " samples"]


def worst_case_forget_set(
    network: nn.Module,
    losses: Callable[[nn.Module], Float[Tensor, " samples"]],
    size: int,
    *,
    objective: Callable[[Float[Tensor, " samples"], Float[Tensor, " samples"]], Float[Tensor, ""]] | None = None,
    rounds: int = 2,
    steps: int = 10,
    lr: float = 1e-3,
    weight_lr: float = 0.1,
    gamma: float = 1e-2,
    easiest: bool = False,
) -> ForgetSet:
    """The samples that are hardest to forget: those that a network still knows after it was to forget them.

    In each round a copy of the network unlearns by the weights w, with ``steps`` of sign-SGD, and the weights take a
    step towards samples of a low loss: ``w <- P(w - η (l + 2 γ w))``, P being the nearest weights from 0 to 1 whose sum
    is `size`. The sign of a gradient has derivative 0, so that how the unlearned network depends on w need not be
    followed.

    Args:
        network: trained; it is left as it is.
        losses: gives of a network the loss of each of the n samples, with gradients. Of classes, or of documents, in
            place of samples it gives theirs.
        size: of the set, from 1 to n.
        objective: what unlearning minimises, of the losses and the weights; None: `weighted_grad_diff`.
        rounds: how often the network unlearns and the weights move, at least 1.
        steps: of sign-SGD in each round, at least 1.
        lr: the step of every parameter of the network, above 0.
        weight_lr: η, above 0.
        gamma: γ, at least 0; the larger, the more alike the weights.
        easiest: whether to look for the samples that are easiest to forget, by the losses' other sign.

    Raises:
        ValueError: settings out of range; losses of another shape.

    Source:
        Fan, Liu, Hero, Liu, 2024, "Challenging Forgets: Unveiling the Worst-Case Forget Sets in Machine Unlearning",
        arXiv:2403.07362, and its code OPTML-Group/Unlearn-WorstCase.

    Example:
        >>> inputs, targets = torch.tensor([[1.0], [1.0], [-1.0]]), torch.tensor([1.0, 1.0, 5.0])
        >>> fitted = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.ones_(fitted.weight)
        >>> worst_case_forget_set(fitted, lambda net: (net(inputs)[:, 0] - targets).square(), 2).chosen.tolist()
        [True, True, False]
    """
    who = "worst_case_forget_set"
    for name, count in (("rounds", rounds), ("steps", steps), ("size", size)):
        check_count(who, name, count)
    check_number(who, "lr", lr, above=0)
    check_number(who, "weight_lr", weight_lr, above=0)
    check_number(who, "gamma", gamma, least=0)
    with torch.no_grad():
        # Of a copy: in training mode batch normalisation's buffers move.
        after = losses(copy.deepcopy(network))
    if after.ndim != 1 or size > len(after):
        raise ValueError(
            f"{who}: size={size} came with losses of shape {list(after.shape)}; give losses [n], of n samples, and a "
            "size of at most n."
        )
    weights = torch.full_like(after, size / len(after))
    for _ in range(rounds):
        unlearned = copy.deepcopy(network)
        for _ in range(steps):
            _sign_step(unlearned, (objective or weighted_grad_diff)(losses(unlearned), weights), lr)
        with torch.no_grad():
            after = losses(unlearned)
        slope = (-after if easiest else after) + 2 * gamma * weights
        weights = project_to_capped_simplex(weights - weight_lr * slope, size)
    chosen = torch.zeros(len(weights), dtype=torch.bool, device=weights.device)
    # The order of equal weights is that of the losses.
    order = torch.argsort(after if not easiest else -after, stable=True)
    chosen[order[torch.argsort(weights[order], descending=True, stable=True)[:size]]] = True
    return ForgetSet(chosen, weights, after)


def weighted_grad_diff(losses: Float[Tensor, " samples"], weights: Float[Tensor, " samples"]) -> Float[Tensor, ""]:
    """Gradient difference: samples are unlearned by their weights, and retained by what is left of them.

    Example:
        >>> weighted_grad_diff(torch.tensor([1.0, 4.0]), torch.tensor([1.0, 0.0]))
        tensor(3.)
    """
    kept = 1 - weights
    return (kept * losses).sum() / kept.sum().clamp(min=1e-12) - (weights * losses).sum() / weights.sum()


def project_to_capped_simplex(values: Float[Tensor, " samples"], total: float) -> Float[Tensor, " samples"]:
    """The nearest numbers from 0 to 1 whose sum is given: ``clamp(v - t, 0, 1)``, with t by bisection.

    Args:
        values: [n] finite.
        total: their sum, from 0 to n.

    Raises:
        ValueError: a sum that n numbers from 0 to 1 can't have; values that are not finite.

    Example:
        >>> project_to_capped_simplex(torch.tensor([3.0, 0.5, 0.1]), 1.5)
        tensor([1.0000, 0.4500, 0.0500])
    """
    check_number("project_to_capped_simplex", "total", total, least=0, most=len(values))
    if not bool(values.isfinite().all()):
        raise ValueError("project_to_capped_simplex: values came that are not finite; lower the weights' step.")
    wide = values.double()
    low, high = wide.min() - 1, wide.max()
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        above = (wide - middle).clamp(0, 1).sum() > total
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    shift = (low + high) / 2
    free = (wide > shift) & (wide < shift + 1)
    # Of the entries that no end holds the shift is known exactly.
    exact = (wide[free].sum() + (wide >= shift + 1).sum() - total) / free.sum()
    return (wide - torch.where(free.any(), exact, shift)).clamp(0, 1).to(values.dtype)


def _sign_step(network: Any, value: Float[Tensor, ""], lr: float) -> None:
    """A step of each parameter against the sign of its gradient."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    slopes = torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
    with torch.no_grad():
        for parameter, slope in zip(parameters, slopes, strict=True):
            parameter.sub_(lr * slope.sign())
