"""Bayesian binning into quantiles: histograms of many numbers of bins, averaged by their posterior probabilities."""

import math
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_losses.calibrators.histogram_binning import step_function
from lightning_losses.calibrators.one_vs_rest import OneVsRest
from lightning_losses.numerics.checks import check_number

# The prior's mean in a bin keeps this distance from 0 and 1, so that no outcome is impossible.
_MARGIN = 5e-3
# Binnings less probable than the best by this factor don't change any probability in float32.
_NEGLIGIBLE = 1e-10


class BayesianBinning(OneVsRest):
    """Bayesian binning into quantiles: histograms of many numbers of bins, averaged by their posterior probabilities.

    The binnings M have from ``max(1, ⌊N^⅓ / 10⌋)`` to ``min(⌈N / 5⌉, ⌈10 N^⅓⌉)`` bins with equal numbers of samples;
    equal scores share a bin. With n₁ of n samples true in a bin whose centre is p, and the prior ``Beta(c p, c (1 -
    p))``, ``P(D | M) = Π_bins B(n₁ + c p, n - n₁ + c (1 - p)) / B(c p, c (1 - p))``, and the calibrated probability is
    ``Σ_M P(M | D) (n₁ + c p) / (n + c)``, with equal prior probabilities of all binnings. With more than two classes
    each is binned against the rest, then normalised. It may change the predicted class.

    Args:
        concentration: c, the number of samples that a bin's prior is worth, above 0.
        ignore_index: samples with this target are ignored.

    Attributes:
        edges: [C, E] or [1, E], the steps of the averaged histograms; inf fills up classes with fewer steps.
        values: [C, E + 1] or [1, E + 1], the values between the edges, empty before `fit`.

    Shapes:
        logits: [..., C] or, binary, [N]; target: [...] class indices.

    Raises:
        ValueError: a concentration out of range; input that `fit` can't use; use before `fit`.

    Source:
        Naeini, Cooper, Hauskrecht, 2015, "Obtaining Well Calibrated Probabilities Using Bayesian Binning", AAAI;
        c = 2, the range of bins, edges midway between samples and the prior's margin of 0.005 are those of others'
        ports of the authors' code. That code gives a bin ``(n₁ + m) / (n + 1)``, with m a mean of its true samples'
        scores, and cuts the average at an elbow of the weights; this takes the posterior mean and all weights.

    Example:
        >>> scores = torch.tensor([-2.0, -1.0, 1.0, 2.0]).repeat(50)
        >>> calibrator = BayesianBinning().fit(scores, torch.tensor([0, 0, 0, 1]).repeat(50))
        >>> [f"{probability:.1f}" for probability in torch.sigmoid(calibrator(scores[:4])).tolist()]
        ['0.0', '0.0', '0.0', '1.0']
    """

    learned: ClassVar[tuple[str, ...]] = ("values", "edges")
    edges: Tensor
    values: Tensor

    def __init__(self, concentration: float = 2.0, ignore_index: int = -100) -> None:
        super().__init__(ignore_index)
        check_number("BayesianBinning", "concentration", concentration, above=0)
        self.concentration = concentration

    @property
    def fitted(self) -> bool:
        """Whether `fit` or a loaded state has filled the buffers; one bin has no edges."""
        return self.values.numel() > 0

    def _fit_class(self, score: Float[Tensor, " rows"], outcome: Bool[Tensor, " rows"]) -> dict[str, Tensor]:
        order = score.argsort(stable=True)
        score, true = score[order], outcome[order].double().cumsum(dim=0)
        count = len(score)
        # Rounded first, so that the root of 8,000 is 20.
        root = round(count ** (1 / 3), 9)
        fewest = max(1, math.floor(root / 10))
        most = max(fewest, min(math.ceil(count / 5), math.ceil(10 * root)))
        binnings = [self._binning(score, true, bins) for bins in range(fewest, most + 1)]
        evidence = torch.stack([log_evidence for _, _, log_evidence in binnings])
        weight = torch.softmax(evidence, dim=0)
        kept = weight >= _NEGLIGIBLE * weight.max()
        weight = weight / weight[kept].sum()
        chosen = [
            (edges, share * values)
            for (edges, values, _), share, keep in zip(binnings, weight, kept.tolist(), strict=True)
            if keep
        ]
        edges = torch.unique(torch.cat([own for own, _ in chosen]))
        # A value holds for scores up to and including its edge, the last one for scores above all edges.
        ends = torch.cat([edges, edges.new_full((1,), math.inf)])
        values = torch.stack([values[torch.searchsorted(own, ends)] for own, values in chosen]).sum(dim=0)
        return {"edges": edges, "values": values}

    def _binning(
        self, score: Float[Tensor, " rows"], true: Float[Tensor, " rows"], bins: int
    ) -> tuple[Float[Tensor, " edges"], Float[Tensor, " bins"], Float[Tensor, ""]]:
        """The edges, the posterior means and the log-evidence of one binning."""
        last = _last_of_bins(score, bins)
        below, above = score[last[:-1]], score[last[:-1] + 1]
        # If two scores are neighbours in this precision, their midpoint rounds to one of them.
        edges = ((below.double() + above.double()) / 2).to(score.dtype)
        edges = torch.where(edges < above, edges, below)
        number = torch.diff(last + 1, prepend=last.new_zeros(1)).double()
        positive = torch.diff(true[last], prepend=true.new_zeros(1))
        ends = torch.cat([edges.new_zeros(1), edges, edges.new_ones(1)]).double()
        centre = ((ends[1:] + ends[:-1]) / 2).clamp(_MARGIN, 1 - _MARGIN)
        prior = torch.stack([centre, 1 - centre]) * self.concentration
        posterior = prior + torch.stack([positive, number - positive])
        log_evidence = (
            (torch.lgamma(posterior) - torch.lgamma(prior)).sum()
            - torch.lgamma(number + self.concentration).sum()
            + len(number) * math.lgamma(self.concentration)
        )
        return edges, posterior[0] / posterior.sum(dim=0), log_evidence

    def _stack(self, classes: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        steps = max(len(fitted["edges"]) for fitted in classes)
        edges = [_padded(fitted["edges"], steps, math.inf) for fitted in classes]
        values = [_padded(fitted["values"], steps + 1, float(fitted["values"][-1])) for fitted in classes]
        return {"values": torch.stack(values), "edges": torch.stack(edges)}

    def _map(self, scores: Float[Tensor, "*rows classes"]) -> Float[Tensor, "*rows classes"]:
        return step_function(scores, self.edges, self.values)


def _last_of_bins(score: Float[Tensor, " rows"], bins: int) -> Int[Tensor, " bins"]:
    """The position of each bin's last sample in the sorted scores; bins may merge, because equal scores share a bin."""
    steps = torch.arange(1, bins + 1, device=score.device)
    last = (steps * len(score) + bins - 1) // bins - 1
    return torch.unique(torch.searchsorted(score, score[last], right=True) - 1)


def _padded(values: Float[Tensor, " few"], length: int, fill: float) -> Float[Tensor, " length"]:
    return torch.cat([values, values.new_full((length - len(values),), fill)])
