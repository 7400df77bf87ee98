"""AdaFocal: focal loss whose exponent follows the calibration of validation data, bin by bin."""

from dataclasses import field

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.confidence.focal import flat_at_zero, focal_weight
from lightning_losses.losses.kinds import CrossEntropyFunction
from lightning_losses.numerics.checks import check_number
from lightning_losses.numerics.probabilities import full_precision
from lightning_losses.numerics.settings import Count, Positive


class AdaFocal(CrossEntropyFunction):
    """AdaFocal: focal loss whose exponent follows the calibration of validation data, bin by bin.

    ``-(1 - p)^γ log p`` where γ > 0, ``-(1 + p)^|γ| log p`` where γ < 0, with p the probability of the target and γ the
    exponent of its bin. After each validation `renew` makes bins of equal mass from the confidences and moves every
    exponent by the bin's gap between confidence and accuracy: ``γ ← γ exp(±λ gap)``, with + for γ > 0. So γ grows in
    overconfident bins and shrinks in underconfident ones. Once its size falls below `switch` its sign changes: inverse
    focal loss raises confidence. `AdaFocalBins` calls `renew`; otherwise every exponent stays at `gamma`, which is
    focal loss. Exponents and edges are buffers: checkpoints save them, and they stay in full precision in a
    half-precision module. A probability is compared with an edge in the narrower of their precisions.

    Args:
        gamma: the first exponent of every bin, above 0.
        num_bins: B, at least 1.
        rate: λ, above 0.
        switch: the magnitude below which the sign changes, above 0.
        least: the smallest exponent, at most ``-switch``.
        most: the largest one, at least `switch` and `gamma`.

    Shapes:
        logits: [..., C]; target: [...] class indices.

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; a target of probabilities; options out of range.

    Source:
        Ghosh, Schaaf, Gormley, 2022, "AdaFocal: Calibration-aware Adaptive Focal Loss", arXiv:2211.11838, and their
        code, 3mcloud/adafocal, with its defaults. Their code sums over the batch; this averages. Their bins leave out
        the smallest confidence, and are closed at the left in training and at the right in validation; here they hold
        every sample and are closed at the right.

    Example:
        >>> loss = AdaFocal(num_bins=2)
        >>> round(loss(torch.zeros(1, 2), torch.tensor([0])).item(), 4)
        0.3466
        >>> loss.renew(torch.tensor([0.6, 0.7, 0.9, 1.0]), torch.tensor([0.0, 1.0, 1.0, 1.0]))
        >>> [round(value, 4) for value in loss.gammas.tolist()]
        [1.1618, 0.9512]
    """

    status = "confirmed"
    evidence = "3mcloud/adafocal"

    gamma: Positive = 1.0
    num_bins: Count = 15
    rate: Positive = 1.0
    switch: Positive = 0.2
    least: float = -2.0
    most: float = 20.0
    edges: Tensor = field(init=False)
    gammas: Tensor = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self._identifier, "least", self.least, most=-self.switch)
        check_number(self._identifier, "most", self.most, least=self.switch)
        check_number(self._identifier, "gamma", self.gamma, above=0, most=self.most)
        self.register_buffer("edges", torch.arange(1, self.num_bins) / self.num_bins)
        self.register_buffer("gammas", torch.full((self.num_bins,), float(self.gamma)))

    def of_cross_entropy(self, cross_entropy: Float[Tensor, "*rows"]) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        log_p = -cross_entropy
        p = flat_at_zero(log_p).exp()
        # A probability that rounds to an edge belongs to the bin that the edge closes.
        shared = min(p.dtype, self.edges.dtype, key=lambda dtype: dtype.itemsize)
        bins = torch.searchsorted(self.edges.to(shared), p.detach().to(shared), side="left")
        gamma = self.gammas.to(p)[bins]
        inverse = torch.pow(1 + p, (-gamma).clamp(min=0))
        return torch.where(gamma >= 0, focal_weight(log_p, gamma.clamp(min=0)), inverse) * cross_entropy

    @torch.no_grad()
    def renew(self, confidence: Float[Tensor, " samples"], correct: Float[Tensor, " samples"]) -> None:
        """Make new bins from validation data, and move their exponents by each bin's gap.

        A bin without samples keeps its exponent. Bins can be empty if confidences are equal or samples fewer than bins.

        Args:
            confidence: the probability of each prediction, in [0, 1].
            correct: 1 where it is right, else 0.

        Raises:
            ValueError: no samples, shapes that differ, or numbers outside [0, 1].
        """
        if confidence.ndim != 1 or confidence.shape != correct.shape or len(confidence) == 0:
            raise ValueError(
                f"{self._identifier}: confidence of shape {list(confidence.shape)} and correct of shape "
                f"{list(correct.shape)} came; give two of the same shape [samples], with at least one sample."
            )
        for name, given in (("confidence", confidence), ("correct", correct)):
            # NaN compares as false; softmax may round beyond 1.
            wrong = given[~((given >= 0) & (given <= 1 + 1e-6))]
            if len(wrong):
                raise ValueError(f"{self._identifier}: {name} holds {float(wrong[0]):g}; give numbers in [0, 1].")
        confidence = full_precision(confidence.detach()).to(self.edges.device)
        ordered = confidence.sort().values
        # The upper edge of bin b is the largest confidence in its share of the samples.
        last = torch.arange(1, self.num_bins, device=ordered.device) * len(ordered) // self.num_bins - 1
        edges = ordered[last.clamp(min=0)]
        bins = torch.searchsorted(edges, confidence, side="left")
        gaps = confidence.double() - correct.to(confidence.device, torch.float64)
        sums = torch.zeros_like(self.gammas, dtype=torch.float64).index_add_(0, bins, gaps)
        gap = sums / torch.bincount(bins, minlength=self.num_bins).clamp(min=1)
        with torch.inference_mode(False):
            # An inference tensor could not be loaded into later.
            self.edges = edges.clone()
        self.gammas.copy_(
            next_gammas(self.gammas.double(), gap, rate=self.rate, switch=self.switch, least=self.least, most=self.most)
        )


def next_gammas(
    gammas: Float[Tensor, " bins"],
    gap: Float[Tensor, " bins"],
    *,
    rate: float = 1.0,
    switch: float = 0.2,
    least: float = -2.0,
    most: float = 20.0,
) -> Float[Tensor, " bins"]:
    """The exponents after one validation; see `AdaFocal`.

    Example:
        >>> next_gammas(torch.tensor([1.0, 0.2, -0.2]), torch.tensor([0.5, -0.1, 0.1]))
        tensor([ 1.6487, -0.2000,  0.2000])
    """
    moved = gammas * torch.exp(rate * torch.where(gammas > 0, gap, -gap))
    flipped = torch.copysign(torch.full_like(moved, switch), -moved)
    return torch.where(moved.abs() < switch, flipped, moved).clamp(least, most)
