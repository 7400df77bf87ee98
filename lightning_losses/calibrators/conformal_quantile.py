"""The quantile of calibration scores that makes sets and intervals cover, and p-values of the same order."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.numerics.checks import check_count, check_floating
from lightning_losses.numerics.probabilities import full_precision

# (n + 1)(1 - alpha) is a whole number up to rounding where it should be one: 55.00000000000001 is 55.
_ROUNDING = 1e-9


def conformal_rank(samples: int, alpha: float) -> int:
    """``ceil((n + 1)(1 - alpha))``: which of n calibration scores, from the least, bounds the sets; it may be n + 1.

    Args:
        samples: n, at least 1.
        alpha: the share that may be missed, in (0, 1).

    Raises:
        ValueError: no samples; an alpha outside (0, 1).

    Example:
        >>> conformal_rank(99, 0.45), conformal_rank(8, 0.1)
        (55, 9)
    """
    check_count("conformal_rank", "samples", samples)
    check_alpha("conformal_rank", alpha)
    return max(math.ceil((samples + 1) * (1 - alpha) - _ROUNDING * (samples + 1)), 1)


def conformal_quantile(scores: Float[Tensor, "*groups samples"], alpha: float) -> Float[Tensor, "*groups"]:
    """The score of rank `conformal_rank`; inf where there are too few, so that everything is within.

    A new score from the same distribution is at most this with a probability of at least 1 - alpha, and, without ties,
    of at most ``1 - alpha + 1 / (n + 1)``. No interpolation, no weights.

    Args:
        scores: [..., n] of samples that were used for nothing else; a group with fewer than n is filled up with inf.
        alpha: the share that may be missed, in (0, 1).

    Raises:
        ValueError: no samples; scores that are NaN or no floating-point tensor; an alpha outside (0, 1).

    Source:
        Vovk, Gammerman, Shafer, 2005, "Algorithmic Learning in a Random World".

    Example:
        >>> conformal_quantile(torch.tensor([0.1, 0.4, 0.2, 0.3]), alpha=0.4).item()
        0.30000001192092896
        >>> conformal_quantile(torch.tensor([0.1, 0.4]), alpha=0.1).item()
        inf
    """
    check_alpha("conformal_quantile", alpha)
    check_floating("conformal_quantile", "scores", scores)
    if scores.ndim == 0 or scores.shape[-1] == 0:
        raise ValueError(f"conformal_quantile: scores of shape {list(scores.shape)} came; give at least one, [..., n].")
    if bool(torch.isnan(scores).any()):
        raise ValueError("conformal_quantile: scores hold NaN; find the prediction that made it.")
    return quantile_of_sorted(scores.sort(dim=-1).values, alpha)


def quantile_of_sorted(scores: Float[Tensor, "*groups samples"], alpha: float) -> Float[Tensor, "*groups"]:
    """`conformal_quantile` of scores that rise, which are filled up with inf; it reads nothing from the device."""
    plus_one = (scores < torch.inf).sum(dim=-1, keepdim=True).double() + 1
    rank = torch.ceil(plus_one * (1 - alpha) - _ROUNDING * plus_one).long().clamp(min=1)
    chosen = scores.gather(-1, (rank - 1).clamp(max=scores.shape[-1] - 1))
    return chosen.masked_fill(rank >= plus_one, torch.inf).squeeze(-1)


def least_samples(alpha: float) -> int:
    """How many calibration scores a finite quantile needs: ``ceil(1 / alpha) - 1``.

    Example:
        >>> least_samples(0.1), least_samples(0.05)
        (9, 19)
    """
    check_alpha("least_samples", alpha)
    return max(math.ceil(1 / alpha - _ROUNDING / alpha) - 1, 1)


def conformal_p_values(
    calibration: Float[Tensor, " samples"],
    scores: Float[Tensor, "*shape"],
    uniforms: Float[Tensor, "*shape"] | None = None,
) -> Float[Tensor, "*shape"]:
    """How unusual scores are among those of calibration: ``(1 + #{calibration >= score}) / (n + 1)``.

    The set of the labels with a p-value above alpha is that of the scores up to `conformal_quantile`. With `uniforms`
    u the p-values are smoothed, ``(#{>} + u (#{=} + 1)) / (n + 1)``, and exactly uniform for exchangeable data.

    Args:
        calibration: [n] of samples that were used for nothing else.
        scores: [...] to judge.
        uniforms: [...] numbers in [0, 1), drawn for each score; None for no smoothing.

    Returns:
        As `scores`, single precision at least; NaN where a score is.

    Raises:
        ValueError: no calibration scores, or NaN among them; scores that are no floating-point tensor; uniforms of
            another shape.

    Source:
        Vovk, Gammerman, Shafer, 2005, "Algorithmic Learning in a Random World".

    Example:
        >>> conformal_p_values(torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.2, 0.9]))
        tensor([0.7500, 0.2500])
    """
    check_floating("conformal_p_values", "calibration", calibration)
    check_floating("conformal_p_values", "scores", scores)
    if calibration.ndim != 1 or len(calibration) == 0:
        raise ValueError(
            f"conformal_p_values: calibration of shape {list(calibration.shape)} came; give at least one score, [n]."
        )
    if uniforms is not None and uniforms.shape != scores.shape:
        raise ValueError(
            f"conformal_p_values: uniforms of shape {list(uniforms.shape)} came with scores of shape "
            f"{list(scores.shape)}; give one number for each score."
        )
    if bool(torch.isnan(calibration).any()):
        raise ValueError("conformal_p_values: calibration holds NaN; find the prediction that made it.")
    dtype = torch.promote_types(calibration.dtype, scores.dtype)
    ordered, flat = calibration.to(dtype).sort().values, scores.to(dtype).contiguous()
    below = torch.searchsorted(ordered, flat)
    above = len(ordered) - torch.searchsorted(ordered, flat, right=True)
    equal = len(ordered) - below - above
    share = 1.0 if uniforms is None else uniforms
    # Half precision counts to 2,048.
    p = (above + share * (equal + 1)).to(full_precision(scores).dtype) / (len(ordered) + 1)
    return p.masked_fill(torch.isnan(scores), torch.nan)


def check_alpha(who: str, alpha: float) -> None:
    """Raise ``ValueError`` unless alpha lies between 0 and 1."""
    number = isinstance(alpha, int | float) and not isinstance(alpha, bool)
    if not number or not 0 < alpha < 1:
        raise ValueError(f"{who}: alpha={alpha!r} came; give the share that may be missed, above 0 and below 1.")
