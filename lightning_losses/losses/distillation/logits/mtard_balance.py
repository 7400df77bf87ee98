"""MTARD's balances: weights keep the pace of several teachers equal, temperatures make their entropies alike."""

from collections.abc import Mapping
from dataclasses import field
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.numerics.checks import check_number
from lightning_losses.numerics.divergences import expectation, weighted_log_ratio
from lightning_losses.numerics.probabilities import log_probabilities
from lightning_losses.numerics.rows import distillation_rows
from lightning_losses.numerics.settings import Count, Positive, Share, Weight

Logits = Float[Tensor, "*rows classes"] | Mapping[str, Float[Tensor, "*rows classes"]]


class TeacherTerm(NamedTuple):
    """A student's divergence from one teacher and that teacher's negative entropy, averaged over rows and classes."""

    divergence: Float[Tensor, ""]
    negative_entropy: Float[Tensor, ""]


def entropy_balance_temperature(
    temperatures: Float[Tensor, " teachers"],
    negative_entropies: Float[Tensor, " teachers"],
    *,
    rate: float = 0.001,
    least: float = 1.0,
    most: float = 10.0,
) -> Float[Tensor, " teachers"]:
    """Cool the teachers whose entropy is above the mean by `rate`, heat the others, within bounds."""
    mean = negative_entropies.mean()
    above = (negative_entropies / torch.where(mean == 0, 1.0, mean) - 1).sign() * (mean != 0)
    return (temperatures - rate * above).clamp(least, most)


def normalized_loss_balance(
    weights: Float[Tensor, " teachers"],
    losses: Float[Tensor, " teachers"],
    first_losses: Float[Tensor, " teachers"],
    *,
    rate: float = 0.025,
) -> Float[Tensor, " teachers"]:
    """Move the weights by `rate` towards each loss's share, relative to its first value; their sum stays 1."""
    ratio = losses / torch.where(first_losses == 0, 1.0, first_losses)
    total = ratio.sum()
    share = torch.where(total == 0, 1.0 / len(ratio), ratio / torch.where(total == 0, 1.0, total))
    moved = (weights - rate * (weights - share)).clamp(min=0)
    return moved / moved.sum()


class MTARDBalance(Loss):
    """MTARD's balances: weights keep the pace of several teachers equal, temperatures make their entropies alike.

    ``sum_k w_k l_k`` with ``l_k = mean t_k (log(t_k + ε) - log s_k)`` over samples and classes, t_k teacher k's softmax
    at temperature T_k and s_k the student's on the same inputs. In every training step

    - teachers whose entropy is above the mean are cooled by `temperature_rate` and the others heated, from the next
      step on;
    - the weights move by `weight_rate` towards each loss's share, relative to its first value, so that a loss that
      falls more slowly weighs more.

    Temperatures, weights and first values are buffers, saved with the module; evaluation, and a call without gradients,
    leave them as they are. In MTARD one teacher is robust, on adversarial inputs, and one accurate, on clean ones; the
    caller makes these inputs.

    Args:
        num_teachers: m, at least 1.
        weight_rate: in [0, 1]; divide it by 10 when the learning rate is divided.
        temperature_rate: at least 0; likewise.
        least_temperature: the lower bound of T_k, above 0, and its first value.
        most_temperature: the upper bound of T_k.
        log_eps: ε, at least 0.

    Shapes:
        teacher_logits: {teacher: [..., C]} with m names; or [..., C] for one teacher. logits: a mapping with the same
        names if each teacher has its own inputs; or [..., C] for all teachers.

    Returns:
        A scalar. A class that a student alone masks has probability e^-100 instead of 0.

    Raises:
        ValueError: a number of teachers other than `num_teachers`; shapes or dtypes that do not fit; options out of
            range.

    Source:
        Zhao, Wang, Wei, 2023, "Mitigating Accuracy-Robustness Trade-off via Balanced Multi-Teacher Adversarial
        Distillation", arXiv:2306.16170, and its code zhaoshiji123/MTARD-extension; rates fall tenfold at epochs 215,
        260 and 285 of 300. With more than two teachers each is compared with the mean, which is this library's reading.

    Example:
        >>> loss = MTARDBalance(num_teachers=2)
        >>> student = {"robust": torch.zeros(1, 3), "clean": torch.zeros(1, 3)}
        >>> _ = loss(student, {"robust": torch.zeros(1, 3), "clean": torch.tensor([[9.0, 0.0, 0.0]])})
        >>> loss.temperatures.tolist()  # the robust teacher is undecided; it would be cooled below its bound
        [1.0, 1.0010000467300415]
    """

    batch_coupled = True
    status = "confirmed"
    evidence = "zhaoshiji123/MTARD-extension"

    num_teachers: Count
    weight_rate: Share = 0.025
    temperature_rate: Weight = 0.001
    least_temperature: Positive = 1.0
    most_temperature: float = 10.0
    log_eps: Weight = 1e-5
    temperatures: Float[Tensor, " teachers"] = field(init=False)
    weights: Float[Tensor, " teachers"] = field(init=False)
    first_losses: Float[Tensor, " teachers"] = field(init=False)
    begun: Bool[Tensor, ""] = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self._identifier, "most_temperature", self.most_temperature, least=self.least_temperature)
        self.register_buffer("temperatures", torch.full((self.num_teachers,), float(self.least_temperature)))
        self.register_buffer("weights", torch.full((self.num_teachers,), 1 / self.num_teachers))
        self.register_buffer("first_losses", torch.zeros(self.num_teachers))
        self.register_buffer("begun", torch.tensor(False))

    def forward(self, logits: Logits, teacher_logits: Logits) -> Float[Tensor, ""]:
        """Check and evaluate, and in training move the balances; see the class."""
        teacher = teacher_logits if isinstance(teacher_logits, Mapping) else {"": teacher_logits}
        # One tensor of student logits is compared with all teachers.
        student = logits if isinstance(logits, Mapping) else dict.fromkeys(teacher, logits)
        if student.keys() != teacher.keys() or len(student) != self.num_teachers:
            raise ValueError(
                f"{self._identifier}: logits for {list(student)} came with teacher_logits for {list(teacher)}; give "
                f"both the same {self.num_teachers} names."
            )
        terms = [
            self.term(values, teacher[name], temperature)
            # A copy: the update below must not change tensors that the backward pass needs.
            for (name, values), temperature in zip(student.items(), self.temperatures.clone(), strict=True)
        ]
        losses = torch.stack([term.divergence for term in terms])
        if self.training and torch.is_grad_enabled() and next(iter(student.values())).numel():
            self._update(losses.detach(), torch.stack([term.negative_entropy for term in terms]))
        return (self.weights.to(losses.dtype, copy=True) * losses).sum()

    def term(
        self,
        logits: Float[Tensor, "*rows classes"],
        teacher_logits: Float[Tensor, "*rows classes"],
        temperature: Float[Tensor, ""],
    ) -> TeacherTerm:
        """One teacher's unweighted part: the teacher at a temperature, the student at temperature 1."""
        rows = distillation_rows(self._identifier, logits, teacher_logits)
        log_t = torch.log_softmax(rows.teacher_logits / temperature, dim=-1)
        log_teacher = (log_t.exp() + self.log_eps).log()
        cells = max(rows.logits.numel(), 1)
        divergence = weighted_log_ratio(log_t.exp(), log_teacher, log_probabilities(rows.logits)).sum() / cells
        return TeacherTerm(divergence, expectation(log_t, log_teacher).sum() / cells)

    @torch.no_grad()
    def _update(self, losses: Float[Tensor, " teachers"], negative_entropies: Float[Tensor, " teachers"]) -> None:
        # An optimizer's guard may skip a step of NaN; the balances must survive it.
        finite = (losses + negative_entropies).isfinite().all()
        moved = entropy_balance_temperature(
            self.temperatures,
            negative_entropies.to(self.temperatures.dtype),
            rate=self.temperature_rate,
            least=self.least_temperature,
            most=self.most_temperature,
        )
        self.temperatures.copy_(torch.where(finite, moved, self.temperatures))
        losses = losses.to(self.weights.dtype)
        self.first_losses.copy_(torch.where(self.begun | ~finite, self.first_losses, losses))
        self.begun.logical_or_(finite)
        weights = normalized_loss_balance(self.weights, losses, self.first_losses, rate=self.weight_rate)
        self.weights.copy_(torch.where(finite, weights, self.weights))
