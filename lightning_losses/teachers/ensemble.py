"""Several teachers as one, by the mean of their probabilities or of their logits."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lightning_losses.networks.calls import call, logits_of
from lightning_losses.numerics.checks import check_choice, check_temperature
from lightning_losses.numerics.probabilities import full_precision, log_probabilities

Average = Literal["probabilities", "logits"]


class TeacherEnsemble(nn.Module):
    """Several teachers as one teacher.

    With "probabilities" it gives logits whose softmax at the temperature is the weighted mean of the teachers'
    probabilities at that temperature, ``τ log sum_i w_i softmax(z_i / τ)``: use the temperature of the loss. With
    "logits" it gives ``sum_i w_i z_i``, whose probabilities are the teachers' geometric mean, scaled to sum 1.

    Args:
        teachers: the networks, in order or by name, with the same inputs and classes.
        weights: a weight for each teacher, at least 0; they are scaled to sum 1. None gives equal weights.
        average: whether the mean is over "probabilities" or "logits".
        temperature: τ, above 0; no effect on the mean of logits.

    Raises:
        ValueError: no teachers; weights that are negative, all 0, or not one per teacher; an unknown average; in a
            call, a single logit, whose probability is always 1.

    Example:
        >>> sure, unsure = nn.Linear(1, 2, bias=False), nn.Linear(1, 2, bias=False)
        >>> with torch.no_grad():
        ...     _ = sure.weight.copy_(torch.tensor([[4.0], [0.0]])), unsure.weight.zero_()
        >>> TeacherEnsemble([sure, unsure])(torch.ones(1, 1)).softmax(-1).round(decimals=3)
        tensor([[0.7410, 0.2590]], grad_fn=<RoundBackward1>)
        >>> TeacherEnsemble([sure, unsure], average="logits")(torch.ones(1, 1)).softmax(-1).round(decimals=3)
        tensor([[0.8810, 0.1190]], grad_fn=<RoundBackward1>)
    """

    def __init__(
        self,
        teachers: Sequence[nn.Module] | Mapping[str, nn.Module],
        weights: Sequence[float] | None = None,
        average: Average = "probabilities",
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        check_choice("TeacherEnsemble", "average", average, Average)
        check_temperature("TeacherEnsemble", temperature)
        named = teachers if isinstance(teachers, Mapping) else {str(n): teacher for n, teacher in enumerate(teachers)}
        if not named:
            raise ValueError("TeacherEnsemble: no teachers came; give at least one network.")
        shares = [1.0] * len(named) if weights is None else [float(weight) for weight in weights]
        if len(shares) != len(named) or not all(0 <= share < math.inf for share in shares) or max(shares) == 0:
            raise ValueError(
                f"TeacherEnsemble: weights={shares} came for {len(named)} teachers; give each a finite number of at "
                "least 0, not all 0."
            )
        self.members = nn.ModuleDict(named)
        self.average = average
        self.temperature = temperature
        # Divided by the largest first, because a sum could overflow, or a share underflow.
        scaled = [share / max(shares) for share in shares]
        # No tensor, which half precision would round with the teachers.
        self.weights = [one / sum(scaled) for one in scaled]

    def each(self, inputs: Any) -> dict[str, Float[Tensor, "*rows classes"]]:
        """Every teacher's logits, by its name."""
        return {
            name: logits_of(f"TeacherEnsemble: teacher {name!r}", call(member, inputs))
            for name, member in self.members.items()
        }

    def mean(self, each: Mapping[str, Float[Tensor, "*rows classes"]]) -> Float[Tensor, "*rows classes"]:
        """The logits of the ensemble, from those of each teacher."""
        # What a teacher of weight 0, or of less than single precision has, says counts nothing, masks among it.
        counted = [
            (weight, full_precision(logits))
            for weight, logits in zip(self.weights, each.values(), strict=True)
            if weight > torch.finfo(torch.float32).tiny
        ]
        if self.average == "logits":
            # A class that any teacher masks is masked.
            return torch.stack([weight * logits for weight, logits in counted]).sum(dim=0)
        if counted[0][1].shape[-1] == 1:
            raise ValueError(
                "TeacherEnsemble: one logit for each row came, whose softmax is always 1; give average='logits' for "
                "the mean of outputs."
            )
        log_p = [log_probabilities(logits, self.temperature) + math.log(weight) for weight, logits in counted]
        return self.temperature * torch.logsumexp(torch.stack(log_p), dim=0)

    def forward(self, *inputs: Any, **named: Any) -> Float[Tensor, "*rows classes"]:
        """The logits of the ensemble; keyword arguments are passed to the members."""
        return self.mean(self.each(inputs[0] if inputs else named))

    def extra_repr(self) -> str:
        """The options."""
        return f"average={self.average!r}, temperature={self.temperature}, weights={self.weights}"
