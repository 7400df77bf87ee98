"""Estimates of a KL divergence from the log-probabilities of what was sampled."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.numerics.checks import check_choice, check_floating
from lightning_losses.numerics.probabilities import full_precision

KLEstimator = Literal["k1", "k2", "k3", "abs", "k3_straight_through"]


def kl_estimate(
    logps: Float[Tensor, "..."],
    ref_logps: Float[Tensor, "..."],
    estimator: KLEstimator = "k3",
    *,
    log_ratio_clamp: float | None = None,
    value_clamp: float | None = None,
) -> Float[Tensor, "..."]:
    """Estimates of ``KL(policy || reference)`` from tokens that the policy sampled, one for each.

    With ``d = log p_ref - log p``: k1 is -d, unbiased, of any sign, and useless as a loss, since its expected gradient
    is 0; k2 is d²/2, biased, but its expected gradient is that of the reverse KL; k3 is ``e^d - 1 - d``, unbiased, at
    least 0, and of a smaller variance where the two are near, but its expected gradient is that of the forward KL;
    "abs" is |d|; "k3_straight_through" has the value of k3 and the gradient of k2.

    Args:
        logps: log-probabilities of the tokens.
        ref_logps: the same of the reference, of the same shape; constant.
        estimator: which one.
        log_ratio_clamp: d is held within ± this; None: not at all, and e^d overflows beyond 88 in float32.
        value_clamp: the estimate is held within ± this. Where either holds, the gradient is 0.

    Returns:
        An estimate for each token, in single precision at least.

    Raises:
        ValueError: an estimator that is none of these; shapes or dtypes that do not fit.

    Source:
        Schulman, 2020, "Approximating KL Divergence", a note without a number. verl clamps d to ±20 and k3 to ±10, and
        calls the straight-through one "k3+"; OpenRLHF clamps each to ±10; TRL and Liger clamp nothing.

    Example:
        >>> logps, ref_logps = torch.tensor([-1.0]), torch.tensor([-1.5])
        >>> [round(kl_estimate(logps, ref_logps, name).item(), 4) for name in ("k1", "k2", "k3")]
        [0.5, 0.125, 0.1065]
    """
    check_choice("kl_estimate", "estimator", estimator, KLEstimator)
    check_floating("kl_estimate", "logps", logps)
    check_floating("kl_estimate", "ref_logps", ref_logps)
    if logps.shape != ref_logps.shape:
        raise ValueError(
            f"kl_estimate: ref_logps of shape {list(ref_logps.shape)} came with logps of shape {list(logps.shape)}; "
            "give both of the same tokens."
        )
    difference = full_precision(ref_logps.detach()) - full_precision(logps)
    if log_ratio_clamp is not None:
        difference = difference.clamp(-log_ratio_clamp, log_ratio_clamp)
    if estimator == "k1":
        value = -difference
    elif estimator == "abs":
        value = difference.abs()
    elif estimator == "k2":
        value = difference.square() / 2
    else:
        value = torch.expm1(difference) - difference
    if value_clamp is not None:
        value = value.clamp(-value_clamp, value_clamp)
    if estimator != "k3_straight_through":
        return value
    through = difference.square() / 2
    return through + (value - through).detach()
