"""The losses that the kernels of distillation evaluate, with their functions and settings."""

from collections.abc import Callable
from typing import Any, NamedTuple

from lightning_losses.losses.base import Loss
from lightning_losses.losses.distillation.divergences.ab_divergence import ABDivergence
from lightning_losses.losses.distillation.divergences.forward_kl import ForwardKL
from lightning_losses.losses.distillation.divergences.generalized_jsd import GeneralizedJSD
from lightning_losses.losses.distillation.divergences.kd import KD
from lightning_losses.losses.distillation.divergences.reverse_kl import ReverseKL
from lightning_losses.losses.distillation.divergences.skew_kl import SkewKL
from lightning_losses.losses.distillation.divergences.skew_rkl import SkewRKL
from lightning_losses.losses.distillation.divergences.symmetric_kl import SymmetricKL
from lightning_losses.losses.distillation.divergences.total_variation import TotalVariation
from lightning_losses.losses.distillation.logits.nkd import NKD

SMALLEST_EXPONENT = 0.2


class Objective(NamedTuple):
    """``factor * sum_k phi(s_k, t_k)`` of two softmaxes at one temperature.

    Attributes:
        name: the name of phi in `triton_objectives.DIVERGENCES`.
        a, b: the settings of phi.
        temperature: τ of both softmaxes.
        factor: 1, or τ².
    """

    name: str
    a: float
    b: float
    temperature: float
    factor: float


def objective_of(loss: Any) -> Objective | None:
    """The kernel's form of a loss; None if the kernel doesn't support its class or settings."""
    chosen = OBJECTIVES[type(loss)](loss) if isinstance(loss, Loss) and type(loss) in OBJECTIVES else None
    if chosen is None or loss.shared_support or loss.in_double:
        return None
    squared = isinstance(loss, (KD, NKD)) or getattr(loss, "tau_squared", False)
    return Objective(*chosen, loss.temperature, loss.temperature**2 if squared else 1.0)


_Choice = tuple[str, float, float]
_FORWARD, _REVERSE = ("forward_kl", 1.0, 0.0), ("reverse_kl", 0.0, 1.0)


def _jsd(loss: Any) -> _Choice:
    return {0.0: _FORWARD, 1.0: _REVERSE}.get(loss.beta, ("jsd", loss.beta, 0.0))


def _skew(name: str, limit: _Choice) -> Callable[[Any], _Choice | None]:
    # At a skew of 1 there is no gradient.
    return lambda loss: {0.0: limit, 1.0: None}.get(loss.skew, (name, loss.skew, 0.0))


def _ab(loss: Any) -> _Choice | None:
    limits = {(1.0, 0.0): _FORWARD, (0.0, 1.0): _REVERSE}
    # The formula subtracts nearly equal numbers: its error is about 1e-7 / (α β), too much for small exponents.
    inner = ("ab", loss.alpha, loss.beta) if min(loss.alpha, loss.beta) >= SMALLEST_EXPONENT else None
    return limits.get((loss.alpha, loss.beta), inner)


OBJECTIVES: dict[type[Loss], Callable[[Any], _Choice | None]] = {
    KD: lambda loss: _FORWARD,
    ForwardKL: lambda loss: _FORWARD,
    ReverseKL: lambda loss: _REVERSE,
    SymmetricKL: lambda loss: ("symmetric_kl", 1 - loss.reverse_weight, loss.reverse_weight),
    GeneralizedJSD: _jsd,
    SkewKL: _skew("skew_kl", _FORWARD),
    SkewRKL: _skew("skew_rkl", _REVERSE),
    TotalVariation: lambda loss: ("total_variation", 0.0, 0.0),
    ABDivergence: _ab,
    NKD: lambda loss: ("nkd", loss.gamma, 0.0),
}
"""The losses that the kernel supports; not their subclasses, whose rows may differ."""
