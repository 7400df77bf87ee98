"""Balanced-divergence distillation: forward and reverse divergence, weighted by who is less certain."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import DistillationLoss, DistillationRows
from lightning_losses.numerics.divergences import entropy, over_finite_logarithms, weighted_sum
from lightning_losses.numerics.probabilities import log_probabilities
from lightning_losses.numerics.settings import Positive, Temperature, Weight


class BDKDWeights(NamedTuple):
    """The weight of each row's forward and reverse divergence."""

    forward: Float[Tensor, "*rows"]
    reverse: Float[Tensor, "*rows"]


def bdkd_weights(
    student: Float[Tensor, "*rows"], teacher: Float[Tensor, "*rows"], *, boost: float = 2.0, base: float = 1.0
) -> BDKDWeights:
    """`boost` for the forward divergence where the teacher's entropy is larger, for the reverse where it is smaller."""
    forward = torch.full_like(student, base).masked_fill(teacher > student, boost)
    reverse = torch.full_like(student, base).masked_fill(student > teacher, boost)
    return BDKDWeights(forward, reverse)


class BDKD(DistillationLoss):
    """Balanced-divergence distillation: forward and reverse divergence, weighted by who is less certain.

    ``τ² (ν KL(t || s) + δ KL(s || t))`` with ν = boost where the teacher's entropy is above the student's, δ = boost
    where it is below, and `base` otherwise. A student surer than its teacher is pushed to cover the teacher's classes,
    a less sure one to drop what the teacher drops.

    It is made for online distillation, where both networks train. The student minimises cross-entropy and this loss;
    its peer minimises cross-entropy and ``τ² KL(s || t)``, which is `KD` with the roles exchanged (``objective=bdkd
    peer_objective=mutual_learning`` with the same temperature). With a frozen teacher it is an ordinary offline loss.

    Args:
        boost: weight of the divergence whose expectation is under the less certain network, at least 0.
        base: weight of the other one, and of both on a tie, at least 0. With boost = base = 1 this is Jeffreys'
            divergence.
        temperature: τ, above 0.
        entropy_temperature: the temperature at which entropies are compared, above 0; None for τ.

    Shapes:
        logits, teacher_logits: [..., C]; target (optional, only marks ignored samples): [...] or [..., C].

    Returns:
        A scalar, or [...] without reduction. The value jumps where the entropies cross; the weights have no gradient.
        A class that one network alone masks has probability e^-100 instead of 0.

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
    evidence = "ghwang-s/abkd, not the authors' code, and an independent evaluation of the formula"

    needs_tail = True

    boost: Weight = 2.0
    base: Weight = 1.0
    temperature: Temperature = 4.0
    entropy_temperature: Positive | None = None

    def rows(self, given: DistillationRows) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        log_s = log_probabilities(given.logits, self.temperature)
        log_t = log_probabilities(given.teacher_logits, self.temperature)
        s, t = log_s.exp(), log_t.exp()
        if self.entropy_temperature in (None, self.temperature):
            # `entropy` would compute the exponentials again.
            student, teacher = -weighted_sum(s.detach(), log_s.detach()), -weighted_sum(t, log_t)
        else:
            student = entropy(log_probabilities(given.logits.detach(), self.entropy_temperature))
            teacher = entropy(log_probabilities(given.teacher_logits, self.entropy_temperature))
        weights = bdkd_weights(student, teacher, boost=self.boost, base=self.base)

        def balanced(log_s: Tensor, log_t: Tensor) -> Tensor:
            difference = log_t - log_s
            forward, reverse = (t * difference).sum(dim=-1), (s * difference).sum(dim=-1)
            return weights.forward * forward - weights.reverse * reverse

        return self.temperature**2 * over_finite_logarithms(balanced, log_s, log_t)
