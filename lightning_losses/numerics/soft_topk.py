"""A soft choice of the k largest scores of a row: sigmoids about a threshold at which they add up to k."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lightning_losses.numerics.checks import check_count, check_floating, check_number
from lightning_losses.numerics.probabilities import full_precision, known_everywhere

# Of which the first dozen nearly always suffice; a step that Newton's method takes too far halves the interval.
_STEPS = 48


def soft_topk(scores: Float[Tensor, "*rows labels"], k: int, alpha: float = 2.0) -> Float[Tensor, "*rows labels"]:
    """How far each score is among the k largest of its row: numbers in [0, 1] that add up to k.

    ``σ(α (s_j + t))`` with the threshold t of each row at which ``sum_j σ(α (s_j + t)) = k``. Towards α = ∞ it is 1 for
    the k largest and 0 for the others. Its derivatives are those of the exact threshold: with ``v_j = α σ_j (1 - σ_j)``
    the Jacobian is ``diag(v) - v vᵀ / sum_j v_j``.

    Args:
        scores: s; a score of -inf is not among them, and a row that has no more than k others has 1 for each of these.
        k: at least 1 and below the number of labels.
        alpha: α, above 0: how sharp the choice is, in units of the scores.

    Returns:
        The choice, as `scores`.

    Raises:
        ValueError: scores that are no floating-point tensor; a k or an alpha out of range.

    Source:
        Gupta, Khatri, Rawat, Bhojanapalli, Jain, Dhillon, 2024, "Dual-Encoders for Extreme Multi-Label
        Classification", arXiv:2310.10636, and its code nilesh2797/DEXML; there the threshold is bisected, and here it
        is found by Newton's method on the difference of two logarithms, which sigmoids that round to 0 or 1 leave
        intact.

    Example:
        >>> chosen = soft_topk(torch.tensor([3.0, 1.0, 0.0, -2.0]), k=2, alpha=4.0)
        >>> [round(share, 3) for share in chosen.tolist()], round(chosen.sum().item(), 4)
        ([1.0, 0.881, 0.119, 0.0], 2.0)
    """
    return log_soft_topk(scores, k, alpha).exp()


def log_soft_topk(scores: Float[Tensor, "*rows labels"], k: int, alpha: float = 2.0) -> Float[Tensor, "*rows labels"]:
    """The logarithm of `soft_topk`, finite where that rounds to 0.

    Example:
        >>> log_soft_topk(torch.tensor([800.0, 800.0, -800.0]), k=2, alpha=1.0)[2]  # e^-800 rounds to 0
        tensor(-799.6534)
    """
    who = "soft_topk"
    check_floating(who, "scores", scores)
    check_count(who, "k", k)
    check_number(who, "alpha", alpha, above=0)
    if scores.ndim == 0 or scores.shape[-1] <= k:
        raise ValueError(f"{who}: k={k} came for scores of shape {list(scores.shape)}; give more than k to each row.")
    scores = full_precision(scores)
    present = ~torch.isneginf(scores.detach())
    # All that are there are chosen; any scores do in their place.
    few = present.sum(dim=-1, keepdim=True) <= k
    scaled = alpha * scores.masked_fill(few, 0.0)
    chosen = scaled + _threshold(scaled, k)
    log_choice = F.logsigmoid(chosen).masked_fill(few, 0.0)
    return log_choice if known_everywhere(present) else log_choice.masked_fill(~present, -torch.inf)


def _threshold(scores: Float[Tensor, "*rows labels"], k: int) -> Float[Tensor, "*rows 1"]:
    """t at which ``sum_j σ(s_j + t) = k``, with its derivatives."""
    places = scores.detach().topk(k, dim=-1).indices
    top = scores.gather(-1, places)
    others = scores.masked_fill(torch.zeros_like(scores, dtype=torch.bool).scatter(-1, places, True), -torch.inf)
    with torch.no_grad():
        t = _solution(scores.detach(), top.detach(), others.detach())
    # Two steps from the solution: the first has the gradient of it, both have second derivatives too.
    for _ in range(2):
        t = t - _excess_and_step(top, others, t)[1]
    return t


def _solution(
    scores: Float[Tensor, "*rows labels"], top: Float[Tensor, "*rows k"], others: Float[Tensor, "*rows labels"]
) -> Float[Tensor, "*rows 1"]:
    """The threshold, by Newton's method within an interval that holds it."""
    masked = torch.isneginf(scores)
    count = (~masked).sum(dim=-1, keepdim=True).to(scores)
    # With all scores as large as the largest, or as small as the smallest, each would be chosen equally.
    even = torch.logit(top.shape[-1] / count, eps=torch.finfo(scores.dtype).eps)
    low = even - scores.amax(dim=-1, keepdim=True)
    high = even - scores.masked_fill(masked, torch.inf).amin(dim=-1, keepdim=True)
    t = (low + high) / 2
    for _ in range(_STEPS):
        excess, step = _excess_and_step(top, others, t)
        low, high = torch.where(excess > 0, low, t), torch.where(excess > 0, t, high)
        newton = t - step
        inside = (newton >= low) & (newton <= high)
        nearer = torch.where(inside | torch.isnan(newton), newton, (low + high) / 2)
        settled = (nearer - t).abs() <= 4 * torch.finfo(t.dtype).eps * t.abs().clamp(min=1.0)
        t = nearer
        if known_everywhere(settled):
            break
    return t


def _excess_and_step(
    top: Float[Tensor, "*rows k"], others: Float[Tensor, "*rows labels"], t: Float[Tensor, "*rows 1"]
) -> tuple[Float[Tensor, "*rows 1"], Float[Tensor, "*rows 1"]]:
    """How much too large a threshold is, and Newton's step: the same by its slope.

    What the others are chosen too much is ``sum σ(x)`` over them, what the top k lack is ``sum σ(-x)`` over these; the
    threshold is right where both are equal. Their logarithms keep their digits where sigmoids round to 0 or 1.
    """
    (too_much, rising), (lacking, falling) = _log_sum(others + t), _log_sum(-(top + t))
    excess = too_much - lacking
    return excess, excess / (rising + falling)


def _log_sum(x: Float[Tensor, "*rows part"]) -> tuple[Float[Tensor, "*rows 1"], Float[Tensor, "*rows 1"]]:
    """``log sum σ(x)``, and its slope if all x move alike."""
    terms = F.logsigmoid(x)
    total = torch.logsumexp(terms, dim=-1, keepdim=True)
    return total, ((terms - total).exp() * torch.sigmoid(-x)).sum(dim=-1, keepdim=True)
