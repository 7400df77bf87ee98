"""Adaptively clipped divergence: compares the classes whose teacher probability lies between two ranks."""

from dataclasses import field

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lightning_losses.losses.kinds import DistillationLoss, DistillationRows
from lightning_losses.numerics.checks import check_number
from lightning_losses.numerics.divergences import kl_divergence
from lightning_losses.numerics.probabilities import log_probabilities, log_probabilities_within
from lightning_losses.numerics.settings import Count, Positive, Temperature


def quantile_levels(values: Float[Tensor, "*rows classes"]) -> Float[Tensor, "*rows classes"]:
    """Each entry's rank in its row, scaled from 0 for the smallest to 1 for the largest; equal entries share a rank.

    Example:
        >>> quantile_levels(torch.tensor([[0.1, 0.6, 0.1, 0.2]]))
        tensor([[0.1667, 1.0000, 0.1667, 0.6667]])
    """
    order, index = values.sort(dim=-1)
    place = torch.arange(values.shape[-1], dtype=values.dtype, device=values.device).expand_as(order)
    later = order[..., 1:] > order[..., :-1]
    # A run of equal entries begins after a smaller entry and ends before a larger one.
    begin = F.pad(torch.where(later, place[..., 1:], 0.0), (1, 0)).cummax(dim=-1).values
    end = F.pad(torch.where(later, place[..., :-1], torch.inf), (0, 1), value=max(values.shape[-1] - 1, 0))
    end = end.flip(-1).cummin(dim=-1).values.flip(-1)
    levels = (begin + end) / (2 * max(values.shape[-1] - 1, 1))
    return torch.zeros_like(levels).scatter(-1, index, levels)


def clipped_divergence(
    logits: Float[Tensor, "*rows classes"],
    teacher_logits: Float[Tensor, "*rows classes"],
    lower: float | Float[Tensor, "*rows 1"],
    upper: float | Float[Tensor, "*rows 1"],
    softness: float,
) -> Float[Tensor, "*rows"]:
    """``KL(t' || s')`` over the classes between two scaled ranks of the teacher's probabilities; see `DACKL`.

    Args:
        logits: [..., C] of the student.
        teacher_logits: [..., C] of the teacher.
        lower: the scaled rank of the lower bound, in [0, 1]: a number, or one for each row.
        upper: the scaled rank of the upper bound, likewise.
        softness: the width, in scaled ranks, over which classes fade out at a bound, so that the bounds have a
            gradient; 0 cuts sharply. A row in which no class of the teacher remains counts 0.
    """
    # Logits and probabilities have the same ranks.
    levels = quantile_levels(teacher_logits)
    if softness > 0:
        weight = F.logsigmoid((levels - lower) / softness) + F.logsigmoid((upper - levels) / softness)
        return kl_divergence(log_probabilities(teacher_logits + weight), log_probabilities(logits + weight))
    weight = torch.where((levels >= lower) & (levels <= upper), 0.0, -torch.inf)
    return kl_divergence(log_probabilities_within(teacher_logits + weight), log_probabilities_within(logits + weight))


class DACKL(DistillationLoss):
    """Adaptively clipped divergence: compares the classes whose teacher probability lies between two ranks.

    ``τ² KL(t' || s')`` with t' and s' the probabilities at temperature τ, restricted to the classes whose rank among
    the teacher's probabilities (0 the smallest, 1 the largest) lies between two bounds, and rescaled to sum 1. A small
    network maps the teacher's sorted probabilities to each row's bounds. Classes fade out at a bound over a width of
    `softness`, so that the bounds have a gradient. The network belongs to the loss, and is trained and saved with it.
    It minimises the loss too, so it may clip just the classes that the student finds hard.

    Args:
        num_classes: C, at least 1, the inputs of the network.
        bounds: two fixed bounds in [0, 1] instead of the network, with sharp clipping; (0, 1) is `KD`.
        hidden: the network's hidden units, at least 1.
        softness: the width over which classes fade out, above 0; unused if `bounds` is given.
        temperature: τ, above 0.

    Shapes:
        logits, teacher_logits: [..., C]; target (optional, only marks ignored samples): [...] or [..., C].

    Returns:
        A scalar, or [...] without reduction. If the student alone masks one of these classes, its probability is e^-100
        instead of 0.

    Raises:
        ValueError: shapes or dtypes that do not fit; a number of classes that is not the network's; bounds out of
            order.

    Source:
        After Liu et al., 2024, "Multi-Granularity Semantic Revision for Large Language Model Distillation",
        arXiv:2407.10068, implemented from descriptions. The soft bounds, the network's size and the reading of
        quantiles as ranks are this library's.

    Example:
        >>> loss = DACKL(num_classes=3, bounds=(0.5, 1.0))  # the teacher's two likeliest classes
        >>> teacher = torch.tensor([[3.0, 2.0, 0.0]])
        >>> loss(teacher + torch.tensor([0.0, 0.0, 7.0]), teacher).item()
        0.0
    """

    status = "experimental"
    evidence = "no golden values: made from descriptions; KD on the same classes in its tests"

    num_classes: Count
    bounds: tuple[float, float] | None = None
    hidden: Count = 32
    softness: Positive = 0.05
    temperature: Temperature = 1.0
    network: nn.Sequential | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bounds is not None:
            lower, upper = self.bounds
            check_number(self._identifier, "the upper bound", upper, least=0, most=1)
            check_number(self._identifier, "the lower bound", lower, least=0, most=upper)
            return
        last = nn.Linear(self.hidden, 2)
        self.network = nn.Sequential(nn.Linear(self.num_classes, self.hidden), nn.ReLU(), last)
        # At first nearly all classes are within the bounds.
        with torch.no_grad():
            last.bias.copy_(torch.tensor([3.0, -3.0]))

    def rows(self, given: DistillationRows) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        lower: float | Tensor
        upper: float | Tensor
        if self.bounds is None:
            (lower, upper), softness = self.clipping(given.teacher_logits), self.softness
        else:
            (lower, upper), softness = self.bounds, 0.0
        student, teacher = given.logits / self.temperature, given.teacher_logits / self.temperature
        return self.temperature**2 * clipped_divergence(student, teacher, lower, upper, softness)

    def clipping(self, teacher_logits: Float[Tensor, "*rows classes"]) -> tuple[Tensor, Tensor]:
        """The network's lower and upper bound of each row, [..., 1] each; the upper one is larger."""
        assert self.network is not None
        if teacher_logits.shape[-1] != self.num_classes:
            raise ValueError(
                f"{self._identifier}: {teacher_logits.shape[-1]} classes came to a network that reads "
                f"{self.num_classes}; give the data's num_classes."
            )
        likeliest_first = log_probabilities(teacher_logits, self.temperature).exp().sort(dim=-1, descending=True).values
        weight: Tensor = self.network[0].weight  # type: ignore[assignment]
        first, second = self.network(likeliest_first.to(weight.dtype)).sigmoid().to(teacher_logits.dtype).chunk(2, -1)
        return first * second, first
