"""Watches the softmax saturate: rows whose probabilities are exactly 0 and 1 in floating point."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_losses.callbacks.monitors.monitor import LogitMonitor, check_precisions
from lightning_losses.plots.grokking import fraction_panels
from lightning_losses.plots.style import Figure


def collapsed_rows(logits: Float[Tensor, "rows classes"], dtype: torch.dtype = torch.float32) -> Bool[Tensor, " rows"]:
    """The rows whose softmax, computed in a precision, has lost all classes except the largest.

    A row is collapsed if the sum of ``exp(z - max z)`` is exactly 1: the other classes are below the precision's
    rounding. With two classes that happens from a gap of 7.6 in float16, 16.6 in float32, 36.7 in float64. The result
    does not depend on the labels. Logits beyond the precision's range count as its largest number.

    Source:
        Prieto, Barsbey, Mediano, Birdal, 2025, "Grokking at the Edge of Numerical Stability", arXiv:2501.04697,
        definition 3.

    Example:
        >>> collapsed_rows(torch.tensor([[0.0, 17.0], [0.0, 16.0]]))
        tensor([ True, False])
    """
    scores = _within_range(logits, dtype)
    exponentials = (scores - scores.max(dim=-1, keepdim=True).values).exp()
    return exponentials.sum(dim=-1) == 1


def zero_loss_rows(
    logits: Float[Tensor, "rows classes"], target: Int[Tensor, " rows"], dtype: torch.dtype = torch.float32
) -> Bool[Tensor, " rows"]:
    """The rows whose cross-entropy, computed in a precision, is exactly 0.

    Example:
        >>> zero_loss_rows(torch.tensor([[0.0, 20.0], [0.0, 20.0]]), torch.tensor([1, 0]))
        tensor([ True, False])
    """
    return torch.log_softmax(_within_range(logits, dtype), dim=-1).gather(1, target.unsqueeze(1)).squeeze(1) == 0


def _within_range(logits: Tensor, dtype: torch.dtype) -> Tensor:
    return logits.to(dtype).clamp(min=torch.finfo(dtype).min, max=torch.finfo(dtype).max)


class SoftmaxCollapse(LogitMonitor):
    """Logs the share of training rows whose softmax has collapsed, and of those whose loss is exactly 0.

    A collapsed row with a right prediction has no loss and no gradient: if most rows are like that, training has
    stopped. If the prediction is wrong, its gradient no longer depends on how wrong it is. This holds for losses with
    softmax, not with StableMax.

    Cost: one softmax of the step's logits per precision, every n steps; no forward pass.

    Args:
        precisions: the precisions of the softmax: the loss's own, and others for comparison.
        correct_only: whether only rows with a right prediction count as collapsed (the paper's definition); the
            authors' code counts all.
        ignore_index, every_n_steps, folder: see `LogitMonitor`.

    Raises:
        ValueError: an unknown precision; a training step that returns no logits and target.

    Source:
        Prieto, Barsbey, Mediano, Birdal, 2025, "Grokking at the Edge of Numerical Stability", arXiv:2501.04697.

    Example:
        >>> SoftmaxCollapse(precisions=["float16", "float32"], every_n_steps=50).due(100)
        True
    """

    name = "softmax_collapse"

    precisions: Sequence[str] = ("float32",)
    correct_only: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_precisions(self.name, self.precisions)

    def rows(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Collapse and zero loss of each row, per precision."""
        measured = {}
        for precision in self.precisions:
            dtype = getattr(torch, precision)
            collapsed = collapsed_rows(logits, dtype)
            if self.correct_only:
                collapsed &= logits.argmax(dim=-1) == target
            measured[precision] = collapsed
            measured[f"zero_loss_{precision}"] = zero_loss_rows(logits, target, dtype)
        return measured

    def figure(self) -> Figure:
        """The shares of collapsed rows and of rows without loss over steps, one line per precision."""
        panels = {
            title: {precision: (self.steps, self.values[prefix + precision]) for precision in self.precisions}
            for title, prefix in (("collapsed", ""), ("loss exactly 0", "zero_loss_"))
        }
        return fraction_panels(panels, ylabel="training rows (%)")
