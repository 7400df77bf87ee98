"""Bins of confidences, and their sums for calibration errors and reliability diagrams."""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from lightning_losses.metrics.predictions import Predictions
from lightning_losses.numerics.bins import width_bins
from lightning_losses.numerics.checks import check_number

Binning = Literal["width", "mass"]
Scope = Literal["top_label", "classwise"]


class Binned(NamedTuple):
    """Per bin and column: the number of samples, their mean confidence and mean outcome (0 in empty bins)."""

    samples: Float[Tensor, "*resamples bins columns"]
    confidence: Float[Tensor, "*resamples bins columns"]
    outcome: Float[Tensor, "*resamples bins columns"]


def confidences(
    given: Predictions, scope: Scope = "top_label"
) -> tuple[Float[Tensor, "rows columns"], Float[Tensor, "rows columns"]]:
    """Predictions and outcomes, one column per binary question.

    With "top_label" the question is whether the predicted class is right; with "classwise", for each class, whether it
    is the target. For binary predictions it is whether class 1 occurs, for multi-label ones whether each label does.
    """
    probabilities, target = given.probabilities(), given.target
    if given.task == "binary":
        return probabilities.unsqueeze(-1), target.to(probabilities).unsqueeze(-1)
    if given.task == "multilabel":
        return probabilities, target.to(probabilities)
    if scope == "top_label":
        confidence, prediction = probabilities.max(dim=-1, keepdim=True)
        return confidence, (prediction == target.unsqueeze(-1)).to(probabilities)
    classes = torch.arange(probabilities.shape[-1], device=target.device)
    return probabilities, (target.unsqueeze(-1) == classes).to(probabilities)


def mass_bins(confidence: Float[Tensor, "rows columns"], num_bins: int) -> Int[Tensor, "rows columns"]:
    """The equal-mass bin of each confidence, per column: counts differ by at most 1, but equal confidences share a bin.

    With fewer samples than bins each sample gets its own.
    """
    rows = len(confidence)
    if rows == 0:
        return torch.zeros_like(confidence, dtype=torch.long)
    bins = min(num_bins, rows)
    ordered = confidence.sort(dim=0).values
    # The first `rows % bins` bins take one more sample; a bin's upper edge is its largest confidence.
    sizes = torch.full((bins,), rows // bins, device=confidence.device)
    sizes[: rows % bins] += 1
    upper = ordered[sizes.cumsum(0)[:-1] - 1]
    return torch.searchsorted(upper.T.contiguous(), confidence.T.contiguous(), side="left").T


def bins_of(
    confidence: Float[Tensor, "rows columns"], num_bins: int, binning: Binning = "width"
) -> Int[Tensor, "rows columns"]:
    """The bin of each confidence, of equal width or of equal mass."""
    return width_bins(confidence, num_bins) if binning == "width" else mass_bins(confidence, num_bins)


def reliability(
    logits: Float[Tensor, "rows classes"], target: Int[Tensor, " rows"], num_bins: int
) -> list[list[float]]:
    """The numbers of a reliability diagram: count, mean confidence and accuracy of each equal-width bin."""
    confidence, outcome = confidences(Predictions(logits, target, "logits"))
    bins = binned(bin_sums(confidence, outcome, bins_of(confidence, num_bins), num_bins))
    return torch.cat(bins, dim=-1).tolist()


def bin_sums(
    confidence: Float[Tensor, "rows columns"],
    outcome: Float[Tensor, "rows columns"],
    index: Int[Tensor, "rows columns"],
    num_bins: int,
) -> Float[Tensor, "three bins columns"]:
    """Counts, summed confidences and summed outcomes of each bin, in float64."""
    columns = confidence.shape[-1] if confidence.ndim > 1 else 1
    slot = (index * columns + torch.arange(columns, device=index.device)).reshape(-1)
    size = num_bins * columns
    sums = torch.stack([_summed(values, slot, size) for values in (None, confidence, outcome)])
    return sums.reshape(3, num_bins, columns)


def binned(sums: Float[Tensor, "*resamples three bins columns"]) -> Binned:
    """Counts and means of each bin from `bin_sums`."""
    count, confidence, outcome = sums.unbind(-3)
    filled = count.clamp(min=1)
    return Binned(count, confidence / filled, outcome / filled)


def check_bins(metric: str, num_bins: int) -> None:
    """Raise ``ValueError`` unless `num_bins` is an integer of at least 1."""
    check_number(metric, "num_bins", num_bins, least=1)
    if not isinstance(num_bins, int):
        raise ValueError(f"{metric}: num_bins={num_bins!r} came; give an integer.")


def _summed(values: Shaped[Tensor, "..."] | None, slot: Int[Tensor, " entries"], size: int) -> Float[Tensor, " bins"]:
    zeros = torch.zeros(size, dtype=torch.float64, device=slot.device)
    source = torch.ones_like(slot, dtype=torch.float64) if values is None else values.reshape(-1).double()
    return zeros.index_add_(0, slot, source)
