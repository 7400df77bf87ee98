"""The device functions of the kernel's divergences ``sum_k phi(s_k, t_k)``: a term and a slope for each.

A term returns ``phi``; a slope returns ``s dphi/ds``. The kernel's gradient with respect to the softened scores is
``slope_k - s_k sum_j slope_j``. Both functions get the probabilities, their logarithms and the settings. A class of
probability 0 has the logarithm `ABSENT`, which counts as `ZERO` if the value would be infinite.
"""

from typing import Any, NamedTuple

import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]

from lightning_losses.numerics.probabilities import LOG_OF_ZERO

ABSENT = tl.constexpr(-1e30)
ZERO = tl.constexpr(LOG_OF_ZERO)
# The smallest probability in a logarithm; a literal below 1e-38 would be a float64.
TINY = tl.constexpr(1e-37)


class Divergence(NamedTuple):
    """How the kernel computes a divergence.

    Attributes:
        slope: the device function of the slope.
        term: the device function of the term; None if the first pass over a row gives the value (a KL divergence, or
            the sum of both).
        forward: whether it contains KL(t || s).
        reverse: whether it contains KL(s || t).
        excluding: whether both softmaxes exclude the target. Then the forward part is a cross-entropy, and the target's
            cross-entropy times the teacher's probability of the target is added.
    """

    slope: Any
    term: Any = None
    forward: bool = False
    reverse: bool = False
    excluding: bool = False


@triton.jit
def forward_kl_slope(s, t, log_s, log_t, a, b):  # type: ignore[no-untyped-def]
    """``a t (log t - log s)``."""
    return -a * tl.where(log_s > ABSENT, t, 0.0)


@triton.jit
def reverse_kl_slope(s, t, log_s, log_t, a, b):  # type: ignore[no-untyped-def]
    """``b s (log s - log t)``."""
    return b * s * (log_s - tl.where(log_t > ABSENT, log_t, ZERO) + 1.0)


@triton.jit
def symmetric_kl_slope(s, t, log_s, log_t, a, b):  # type: ignore[no-untyped-def]
    """Both."""
    reverse = b * s * (log_s - tl.where(log_t > ABSENT, log_t, ZERO) + 1.0)
    return tl.where(log_s > ABSENT, reverse - a * t, 0.0)


@triton.jit
def _mixed(p, q, weight):  # type: ignore[no-untyped-def]
    # A maximum would hide NaN.
    mixture = weight * p + (1.0 - weight) * q
    return tl.where(mixture < TINY, TINY, mixture)


@triton.jit
def jsd_term(s, t, log_s, log_t, a, b):  # type: ignore[no-untyped-def]
    """``a t log(t / m) + (1 - a) s log(s / m)`` with ``m = a t + (1 - a) s``."""
    log_m = tl.log(_mixed(t, s, a))
    return a * t * (log_t - log_m) + (1.0 - a) * s * (log_s - log_m)


@triton.jit
def jsd_slope(s, t, log_s, log_t, a, b):  # type: ignore[no-untyped-def]
    """The slope; the derivatives through m cancel."""
    return (1.0 - a) * s * (log_s - tl.log(_mixed(t, s, a)))


@triton.jit
def skew_kl_term(s, t, log_s, log_t, a, b):  # type: ignore[no-untyped-def]
    """``t log(t / m)`` with ``m = a t + (1 - a) s``."""
    return t * (log_t - tl.log(_mixed(t, s, a)))


@triton.jit
def skew_kl_slope(s, t, log_s, log_t, a, b):  # type: ignore[no-untyped-def]
    """The slope through the mixture alone."""
    return (a - 1.0) * s * (t / _mixed(t, s, a))


@triton.jit
def skew_rkl_term(s, t, log_s, log_t, a, b):  # type: ignore[no-untyped-def]
    """``s log(s / m)`` with ``m = a s + (1 - a) t``."""
    return s * (log_s - tl.log(_mixed(s, t, a)))


@triton.jit
def skew_rkl_slope(s, t, log_s, log_t, a, b):  # type: ignore[no-untyped-def]
    """The slope through the student and through the mixture that contains it."""
    m = _mixed(s, t, a)
    return s * (log_s - tl.log(m) + 1.0 - a * (s / m))


@triton.jit
def total_variation_term(s, t, log_s, log_t, a, b):  # type: ignore[no-untyped-def]
    """``|t - s| / 2``."""
    return 0.5 * tl.abs(t - s)


@triton.jit
def total_variation_slope(s, t, log_s, log_t, a, b):  # type: ignore[no-untyped-def]
    """The slope; 0 where both are equal."""
    return 0.5 * tl.where(s > t, s, tl.where(s < t, -s, 0.0))


@triton.jit
def ab_term(s, t, log_s, log_t, a, b):  # type: ignore[no-untyped-def]
    """``-(t^a s^b - a/(a+b) t^(a+b) - b/(a+b) s^(a+b)) / (a b)``."""
    total = a + b
    powers = (a * tl.exp(total * log_t) + b * tl.exp(total * log_s)) / total
    return (powers - tl.exp(a * log_t + b * log_s)) / (a * b)


@triton.jit
def ab_slope(s, t, log_s, log_t, a, b):  # type: ignore[no-untyped-def]
    """The slope of ``t^a s^b`` and ``s^(a+b)``."""
    return (tl.exp((a + b) * log_s) - tl.exp(a * log_t + b * log_s)) / a


DIVERGENCES = {
    "forward_kl": Divergence(forward_kl_slope, forward=True),
    "reverse_kl": Divergence(reverse_kl_slope, reverse=True),
    "symmetric_kl": Divergence(symmetric_kl_slope, forward=True, reverse=True),
    "jsd": Divergence(jsd_slope, jsd_term),
    "skew_kl": Divergence(skew_kl_slope, skew_kl_term),
    "skew_rkl": Divergence(skew_rkl_slope, skew_rkl_term),
    "total_variation": Divergence(total_variation_slope, total_variation_term),
    "ab": Divergence(ab_slope, ab_term),
    "nkd": Divergence(forward_kl_slope, forward=True, excluding=True),
}
