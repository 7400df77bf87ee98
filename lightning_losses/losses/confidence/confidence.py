"""What the calibration objectives share: the confidence of each prediction, and whether it is right."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from lightning_losses.numerics.probabilities import log_probabilities
from lightning_losses.numerics.reduction import Reduction, reduce
from lightning_losses.numerics.rows import classification_rows


class IndexedRows(NamedTuple):
    """Flat rows of log-probabilities with class indices, ignored rows neutralised."""

    logits: Float[Tensor, "rows classes"]
    log_p: Float[Tensor, "rows classes"]
    target: Int[Tensor, " rows"]
    kept: Bool[Tensor, " rows"]
    shape: torch.Size

    def reduced(self, value: Float[Tensor, " rows"], reduction: Reduction) -> Float[Tensor, "..."]:
        """One value per row, reduced, or in the shape of the target."""
        return reduce(value, reduction, self.kept).reshape(self.shape if reduction == "none" else ())


class Predictions(NamedTuple):
    """Flat rows of predictions: what is said, and what came true."""

    log_p: Float[Tensor, "rows classes"]
    confidence: Float[Tensor, " rows"]
    correct: Float[Tensor, " rows"]
    target: Int[Tensor, " rows"]
    kept: Float[Tensor, " rows"]

    @property
    def number(self) -> Float[Tensor, ""]:
        """The number of kept rows, at least 1."""
        return self.kept.sum().clamp(min=1)


def indexed_rows(
    loss: str, logits: Float[Tensor, "*rows classes"], target: Shaped[Tensor, "..."], ignore_index: int
) -> IndexedRows:
    """Checked rows for a loss that takes class indices only.

    Raises:
        ValueError: as `classification_rows`, and for a target of probabilities.
    """
    rows = classification_rows(loss, logits, target, ignore_index)
    if rows.target is None or rows.target.is_floating_point():
        raise ValueError(f"{loss}: a target of probabilities came; give int64 class indices.")
    flat = rows.logits.reshape(-1, rows.logits.shape[-1])
    kept = torch.ones_like(rows.target, dtype=torch.bool) if rows.kept is None else rows.kept
    return IndexedRows(flat, log_probabilities(flat), rows.target.reshape(-1), kept.reshape(-1), rows.target.shape)


def predictions(
    loss: str, logits: Float[Tensor, "*rows classes"], target: Shaped[Tensor, "..."], ignore_index: int
) -> Predictions:
    """The confidence of each row's prediction, with gradient, and 1 where it is right, without."""
    rows = indexed_rows(loss, logits, target, ignore_index)
    top, predicted = rows.log_p.max(dim=-1)
    return Predictions(rows.log_p, top.exp(), (predicted == rows.target).to(top), rows.target, rows.kept.to(top))


def root(value: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """The square root, with gradient 0 at 0."""
    positive = value > 0
    return torch.where(positive, torch.where(positive, value, 1.0).sqrt(), 0.0 * value)
