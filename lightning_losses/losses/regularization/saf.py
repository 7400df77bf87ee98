"""Sharpness-aware training for free: the predictions stay near those of some epochs ago."""

from typing import Annotated, Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.losses.sample_memory import Columns, Given, Kept, RememberingLoss
from lightning_losses.numerics.divergences import kl_divergence
from lightning_losses.numerics.probabilities import full_precision, log_probabilities
from lightning_losses.numerics.reduction import reduce
from lightning_losses.numerics.rows import beside_logits, classification_rows
from lightning_losses.numerics.settings import Bound, Count, Weight, Whole


class SAF(RememberingLoss):
    """Sharpness-aware training for free: the predictions stay near those of some epochs ago.

    ``λ τ² KL(softmax(z_old / τ) || softmax(z / τ))`` from epoch `start` on and before epoch `end`, else 0, where z_old
    are the network's logits for the same sample E epochs ago. A steep way down in the loss leads to a sharp minimum;
    the term makes it less steep. It is added to cross-entropy. A sample that was not seen E epochs ago, and every one
    outside of training, counts 0.

    Memory holds N C (E + 1) logits of N samples. With mixup, the kept logits are those of another input; the authors'
    code does nothing about it.

    Args:
        coefficient: λ, at least 0.
        temperature: τ, above 0 and at most 64: beyond, τ² multiplies what float32 rounds.
        lag: E, at least 1 epoch.
        start: the first epoch with the term, counted from 0.
        end: the first one without it again, at least 0.
        kept_as: the dtype of the kept logits; those of half precision take half the memory.

    Shapes:
        logits, trajectory_logits: [..., C]; epoch: a number; target (optional, only tells the ignored samples): [...]
        or [..., C].

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; options out of range.

    Source:
        Du, Zhou, Feng, Tan, Zhou, 2022, "Sharpness-Aware Training for Free", arXiv:2205.14083, and their code,
        AngusDujw/SAF, with its defaults. It keeps float32, and takes zeros for a sample that was not seen E epochs ago.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0]])
        >>> round(SAF()(logits, -logits, epoch=6).item(), 4), SAF()(logits, -logits, epoch=5).item()
        (0.3158, 0.0)
    """

    status = "paper"
    evidence = "numpy's evaluation of the formula in the authors' code, whose script does not run by parts"
    remembers = "trajectory_logits"

    coefficient: Weight = 0.16
    temperature: Annotated[float, Bound(above=0, most=64)] = 5.0
    lag: Count = 3
    start: Whole = 6
    end: Whole = 300
    kept_as: Literal["float32", "float16", "bfloat16"] = "float32"

    def forward(
        self,
        logits: Float[Tensor, "*rows classes"],
        trajectory_logits: Float[Tensor, "*rows classes"],
        epoch: float | Float[Tensor, ""],
        target: Shaped[Tensor, "..."] | None = None,
    ) -> Float[Tensor, "..."]:
        """Check, evaluate and reduce; the class documents what."""
        rows = classification_rows(self._identifier, logits, target, self.ignore_index)
        old = beside_logits(self._identifier, "trajectory_logits", trajectory_logits, logits.shape, rows)
        weight = self.coefficient * self.temperature**2 * (self.start <= epoch) * (epoch < self.end)
        divergence = kl_divergence(*(log_probabilities(scores, self.temperature) for scores in (old, rows.logits)))
        return reduce(weight * divergence, self.reduction, rows.kept)

    def fresh(self, given: Given) -> Columns:
        """No logits yet, in E + 1 places."""
        logits: Tensor = given["logits"]
        kept = logits.new_zeros(logits.shape[1:], dtype=getattr(torch, self.kept_as))
        never = torch.full((), torch.iinfo(torch.int32).min, dtype=torch.int32)
        return {
            column: row
            for place in range(self.lag + 1)
            for column, row in ((f"logits_{place}", kept), (f"epoch_{place}", never))
        }

    def recall(self, kept: Kept, given: Given) -> Float[Tensor, "*rows classes"]:
        """The logits of E epochs ago; the present ones where there are none, which are no way off."""
        logits, then = full_precision(given["logits"].detach()), int(given["epoch"]) - self.lag
        place = then % (self.lag + 1)
        there = kept(f"epoch_{place}") == then
        return torch.where(there.reshape(-1, *[1] * (logits.ndim - 1)), kept(f"logits_{place}").to(logits), logits)

    def remember(self, kept: Kept, given: Given) -> Columns:
        """The step's logits, in the place of those of E + 1 epochs ago."""
        logits, epoch = full_precision(given["logits"].detach()), int(given["epoch"])
        place = epoch % (self.lag + 1)
        # Softmax needs them up to a constant; from the largest down they stay in the range of half precision.
        shifted = logits - logits.amax(dim=-1, keepdim=True)
        return {
            f"logits_{place}": shifted.to(getattr(torch, self.kept_as)),
            f"epoch_{place}": torch.full((len(logits),), epoch, dtype=torch.int32, device=logits.device),
        }
