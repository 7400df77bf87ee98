"""Histogram binning: the calibrated probability of a bin is the frequency of positive outcomes in it."""

from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lightning_losses.calibrators.one_vs_rest import OneVsRest
from lightning_losses.metrics.bins import Binning, check_bins
from lightning_losses.numerics.bins import width_edges
from lightning_losses.numerics.checks import check_choice


class HistogramBinning(OneVsRest):
    """Histogram binning: the calibrated probability is the frequency of the class in the bin of its probability.

    With more than two classes each is binned against the rest, then normalised; if all classes get 0 the result is
    uniform. An empty bin gets its centre. It may change the predicted class.

    Args:
        num_bins: at least 1.
        binning: "width", bins ``(b / B, (b + 1) / B]``; or "mass", equally many samples in each bin, with equal scores
            in one bin.
        ignore_index: samples with this target are ignored.

    Attributes:
        edges: [C, B - 1], [1, B - 1] for binary logits: the upper edges of all bins but the last.
        values: [C, B] or [1, B], the bins' frequencies, empty before `fit`.

    Shapes:
        logits: [..., C] or, binary, [N]; target: [...] class indices.

    Raises:
        ValueError: options or input that `fit` can't use; use before `fit`.

    Source:
        Zadrozny, Elkan, 2001, "Obtaining Calibrated Probability Estimates from Decision Trees and Naive Bayesian
        Classifiers".

    Example:
        >>> scores = torch.tensor([-2.0, -1.0, 1.0, 2.0])
        >>> calibrator = HistogramBinning(num_bins=2).fit(scores, torch.tensor([0, 1, 1, 1]))
        >>> torch.sigmoid(calibrator(scores))
        tensor([0.5000, 0.5000, 1.0000, 1.0000])
    """

    learned: ClassVar[tuple[str, ...]] = ("values", "edges")
    edges: Tensor
    values: Tensor

    def __init__(self, num_bins: int = 15, binning: Binning = "width", ignore_index: int = -100) -> None:
        super().__init__(ignore_index)
        check_bins("HistogramBinning", num_bins)
        check_choice("HistogramBinning", "binning", binning, Binning)
        self.num_bins = num_bins
        self.binning: Binning = binning

    @property
    def fitted(self) -> bool:
        """Whether `fit` or a loaded state has filled the buffers; one bin has no edges."""
        return self.values.numel() > 0

    def _fit_class(self, score: Float[Tensor, " rows"], outcome: Bool[Tensor, " rows"]) -> dict[str, Tensor]:
        inner = torch.arange(1, self.num_bins, device=score.device)
        if self.binning == "width":
            edges = width_edges(self.num_bins, score.dtype, score.device)
        else:
            # The largest sample closes a bin; with fewer samples than bins, some bins are empty.
            last = (inner * len(score) + self.num_bins - 1) // self.num_bins - 1
            edges = score.sort().values[last]
        index = torch.searchsorted(edges, score)
        count = torch.bincount(index, minlength=self.num_bins)
        total = torch.bincount(index, weights=outcome.double(), minlength=self.num_bins)
        ends = torch.cat([edges.new_zeros(1), edges, edges.new_ones(1)]).double()
        centre = (ends[1:] + ends[:-1]) / 2
        return {"edges": edges, "values": torch.where(count > 0, total / count.clamp(min=1), centre)}

    def _map(self, scores: Float[Tensor, "*rows classes"]) -> Float[Tensor, "*rows classes"]:
        return step_function(scores, self.edges, self.values)


def step_function(
    scores: Float[Tensor, "*rows classes"], edges: Float[Tensor, "classes edges"], values: Float[Tensor, "classes bins"]
) -> Float[Tensor, "*rows classes"]:
    """Each class's value in the bin of its score; bins are closed above: ``(edge_{b - 1}, edge_b]``."""
    rows = scores.reshape(-1, scores.shape[-1]).T.contiguous()
    stepped = values.gather(-1, torch.searchsorted(edges, rows))
    # `searchsorted` puts NaN above all edges, but it belongs to no bin.
    return torch.where(rows.isnan(), rows, stepped).T.reshape(scores.shape)
