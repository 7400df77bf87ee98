"""Balanced-divergence distillation: forward and reverse divergence, weighted by who is less certain."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.numerics.checks import check_number, check_temperature
from lightning_losses.numerics.divergences import entropy, weighted_sum
from lightning_losses.numerics.probabilities import log_probabilities
from lightning_losses.numerics.reduction import Reduction, check_reduction, reduce
from lightning_losses.numerics.rows import distillation_rows


class BDKDWeights(NamedTuple):
    """The weight of each row's forward and reverse divergence."""

    forward: Float[Tensor, "*rows"]
    reverse: Float[Tensor, "*rows"]


@torch.no_grad()
def bdkd_weights(
    logits: Float[Tensor, "*rows classes"],
    teacher_logits: Float[Tensor, "*rows classes"],
    *,
    boost: float = 2.0,
    base: float = 1.0,
    temperature: float = 4.0,
) -> BDKDWeights:
    """`boost` for the forward divergence where the teacher's entropy is larger, for the reverse where it is smaller."""
    student, teacher = log_probabilities(logits, temperature), log_probabilities(teacher_logits, temperature)
    return _weights(entropy(student), entropy(teacher), boost, base)


def _weights(student: Tensor, teacher: Tensor, boost: float, base: float) -> BDKDWeights:
    forward = torch.full_like(student, base).masked_fill(teacher > student, boost)
    reverse = torch.full_like(student, base).masked_fill(student > teacher, boost)
    return BDKDWeights(forward, reverse)


def bdkd_loss(
    logits: Float[Tensor, "*rows classes"],
    teacher_logits: Float[Tensor, "*rows classes"],
    target: Shaped[Tensor, "..."] | None = None,
    *,
    boost: float = 2.0,
    base: float = 1.0,
    temperature: float = 4.0,
    entropy_temperature: float | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """The student's term of balanced-divergence distillation; see `BDKD`."""
    _check_options(boost, base, temperature, entropy_temperature, reduction)
    rows = distillation_rows("bdkd", logits, teacher_logits, target, ignore_index)
    log_s = log_probabilities(rows.logits, temperature)
    log_t = log_probabilities(rows.teacher_logits, temperature)
    s, t, difference = log_s.exp(), log_t.exp(), log_t - log_s
    if entropy_temperature is None or entropy_temperature == temperature:
        of_student, of_teacher = -weighted_sum(s.detach(), log_s.detach()), -weighted_sum(t, log_t)
        weights = _weights(of_student, of_teacher, boost, base)
    else:
        weights = bdkd_weights(
            rows.logits, rows.teacher_logits, boost=boost, base=base, temperature=entropy_temperature
        )
    value = weights.forward * weighted_sum(t, difference) - weights.reverse * weighted_sum(s, difference)
    return reduce(temperature**2 * value, reduction, rows.kept)


def _check_options(
    boost: float, base: float, temperature: float, entropy_temperature: float | None, reduction: Reduction
) -> None:
    check_number("bdkd", "boost", boost, least=0)
    check_number("bdkd", "base", base, least=0)
    check_temperature("bdkd", temperature)
    check_reduction("bdkd", reduction)
    if entropy_temperature is not None:
        check_number("bdkd", "entropy_temperature", entropy_temperature, above=0)


class BDKD(Loss):
    """Balanced-divergence distillation: forward and reverse divergence, weighted by who is less certain.

    ``τ² (ν KL(t || s) + δ KL(s || t))`` with ν = boost where the teacher's entropy is above the student's, δ = boost
    where it is below, and `base` otherwise. A student surer than its teacher is pushed to cover the teacher's classes,
    a less sure one to drop what the teacher drops.

    It is made for online distillation, where both networks train: the student minimises cross-entropy and this, its
    peer cross-entropy and ``τ² KL(s || t)``, which is `KD` at the same temperature seen from the peer's side
    (``objective=bdkd peer_objective=mutual_learning`` with that temperature). With a frozen teacher it is an offline
    loss like any other.

    Args:
        boost: weight of the divergence taken under the less certain network, at least 0.
        base: weight of the other one, and of both on a tie, at least 0. With boost = base = 1 this is Jeffreys'
            divergence.
        temperature: τ, above 0.
        entropy_temperature: the temperature at which entropies are compared; None for τ.
        ignore_index: samples with this target count for nothing.
        reduction: "mean" over the kept samples, "sum", or "none".

    Shapes:
        logits, teacher_logits: [..., C]; target (optional, only tells the ignored samples): [...] or [..., C].

    Returns:
        A scalar, or [...] without reduction. The value jumps where the entropies cross; the weights have no gradient.

    Raises:
        ValueError: shapes or dtypes that do not fit; weights below 0; a temperature of 0 or less.

    Source:
        Amara, Sepahvand, Meyer, Gross, Clark, 2022, "BD-KD: Balancing the Divergences for Online Knowledge
        Distillation", arXiv:2212.12965. No code of the authors was found: the direction of the weights agrees with the
        re-implementation in ghwang-s/abkd, whose boost is 3 at τ = 1 and whose forward term is a cross-entropy (same
        gradient); boost = 2 and τ = 4 are this library's.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0]])
        >>> loss = BDKD(temperature=1.0)
        >>> round(loss(logits, logits / 2).item(), 4)  # the teacher is less certain: 2 KL(t || s) + KL(s || t)
        0.2323
    """

    status = "paper"
    evidence = "ghwang-s/abkd, which is not its authors', and an independent evaluation of the formula"

    def __init__(
        self,
        boost: float = 2.0,
        base: float = 1.0,
        temperature: float = 4.0,
        entropy_temperature: float | None = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        _check_options(boost, base, temperature, entropy_temperature, reduction)
        self.boost = boost
        self.base = base
        self.temperature = temperature
        self.entropy_temperature = entropy_temperature
        self.ignore_index = ignore_index
        self.reduction: Reduction = reduction

    def forward(
        self,
        logits: Float[Tensor, "*rows classes"],
        teacher_logits: Float[Tensor, "*rows classes"],
        target: Shaped[Tensor, "..."] | None = None,
    ) -> Float[Tensor, "..."]:
        """Evaluate the loss; the class documents it."""
        return bdkd_loss(
            logits,
            teacher_logits,
            target,
            boost=self.boost,
            base=self.base,
            temperature=self.temperature,
            entropy_temperature=self.entropy_temperature,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
        )
