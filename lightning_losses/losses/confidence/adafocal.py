"""AdaFocal: focal loss whose exponent follows the calibration of validation data, bin by bin."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.losses.confidence.confidence import indexed_rows
from lightning_losses.losses.confidence.focal import NEAREST
from lightning_losses.numerics.checks import check_number
from lightning_losses.numerics.reduction import Reduction, check_reduction
from lightning_losses.numerics.rows import pick


def adafocal_loss(
    logits: Float[Tensor, "*rows classes"],
    target: Shaped[Tensor, "..."],
    edges: Float[Tensor, " inner_edges"],
    gammas: Float[Tensor, " bins"],
    *,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """Focal loss with an exponent for each bin of the target's probability; see `AdaFocal`."""
    check_reduction("adafocal", reduction)
    if gammas.ndim != 1 or edges.shape != (len(gammas) - 1,):
        raise ValueError(
            f"adafocal: edges of shape {list(edges.shape)} and gammas of shape {list(gammas.shape)} came; give [B - 1] "
            "edges and [B] gammas."
        )
    rows = indexed_rows("adafocal", logits, target, ignore_index)
    log_p = pick(rows.log_p, rows.target)
    p = log_p.exp()
    gamma = gammas.to(p)[torch.searchsorted(edges.to(p), p.detach(), side="left")]
    focal = torch.pow((-torch.expm1(log_p)).clamp(min=NEAREST), gamma.clamp(min=0))
    inverse = torch.pow(1 + p, (-gamma).clamp(min=0))
    return rows.reduced(-torch.where(gamma >= 0, focal, inverse) * log_p, reduction)


def next_gammas(
    gammas: Float[Tensor, " bins"],
    gap: Float[Tensor, " bins"],
    *,
    rate: float = 1.0,
    switch: float = 0.2,
    least: float = -2.0,
    most: float = 20.0,
) -> Float[Tensor, " bins"]:
    """The exponents after one look at validation data; see `AdaFocal`.

    Example:
        >>> next_gammas(torch.tensor([1.0, 0.2, -0.2]), torch.tensor([0.5, -0.1, 0.1]))
        tensor([ 1.6487, -0.2000,  0.2000])
    """
    moved = gammas * torch.exp(rate * torch.where(gammas > 0, gap, -gap))
    flipped = torch.copysign(torch.full_like(moved, switch), -moved)
    return torch.where(moved.abs() < switch, flipped, moved).clamp(least, most)


class AdaFocal(Loss):
    """AdaFocal: focal loss whose exponent follows the calibration of validation data, bin by bin.

    ``-(1 - p)^γ log p`` where γ > 0, ``-(1 + p)^|γ| log p`` where γ < 0, with p the probability of the target and γ
    that of its bin. After each validation `renew` makes bins of equal mass from the confidences and moves every
    exponent by the bin's gap between confidence and accuracy: ``γ ← γ exp(±λ gap)``, with + for γ > 0. An overconfident
    bin gets more of focal loss; an underconfident one less, until the size of γ falls below `switch` and the sign
    changes: inverse focal loss, which raises confidence. `AdaFocalBins` calls `renew`; without it every exponent stays
    at `gamma`, which is focal loss. Exponents and edges are buffers: checkpoints have them.

    Args:
        gamma: the first exponent of every bin, above 0.
        num_bins: B, at least 1.
        rate: λ, above 0.
        switch: the magnitude below which the sign changes, above 0.
        least: the smallest exponent, at most ``-switch``.
        most: the largest one, at least `switch` and `gamma`.
        ignore_index: samples with this target count for nothing.
        reduction: "mean" over the kept samples, "sum", or "none".

    Shapes:
        logits: [..., C]; target: [...] class indices.

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; a target of probabilities; options out of range.

    Source:
        Ghosh, Schaaf, Gormley, 2022, "AdaFocal: Calibration-aware Adaptive Focal Loss", arXiv:2211.11838, and their
        code, 3mcloud/adafocal, with its defaults. It sums over the batch; this averages. Its bins leave the smallest
        confidence out and close at the left in training, at the right in validation; these hold every sample and close
        at the right.

    Example:
        >>> loss = AdaFocal(num_bins=2)
        >>> round(loss(torch.zeros(1, 2), torch.tensor([0])).item(), 4)
        0.3466
        >>> loss.renew(torch.tensor([0.6, 0.7, 0.9, 1.0]), torch.tensor([0.0, 1.0, 1.0, 1.0]))
        >>> [round(value, 4) for value in loss.gammas.tolist()]
        [1.1618, 0.9512]
    """

    status = "confirmed"
    evidence = "3mcloud/adafocal, in its own tests"

    edges: Tensor
    gammas: Tensor

    def __init__(
        self,
        gamma: float = 1.0,
        num_bins: int = 15,
        rate: float = 1.0,
        switch: float = 0.2,
        least: float = -2.0,
        most: float = 20.0,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        check_reduction("adafocal", reduction)
        check_number("adafocal", "num_bins", num_bins, least=1)
        check_number("adafocal", "rate", rate, above=0)
        check_number("adafocal", "switch", switch, above=0)
        check_number("adafocal", "least", least, most=-switch)
        check_number("adafocal", "most", most, least=switch)
        check_number("adafocal", "gamma", gamma, above=0, most=most)
        self.gamma = gamma
        self.num_bins = num_bins
        self.rate = rate
        self.switch = switch
        self.least = least
        self.most = most
        self.ignore_index = ignore_index
        self.reduction: Reduction = reduction
        self.register_buffer("edges", torch.arange(1, num_bins) / num_bins)
        self.register_buffer("gammas", torch.full((num_bins,), float(gamma)))

    @torch.no_grad()
    def renew(self, confidence: Float[Tensor, " samples"], correct: Float[Tensor, " samples"]) -> None:
        """Make new bins from validation data, and move their exponents by each bin's gap.

        A bin that equal confidences or fewer samples than bins leave empty keeps its exponent.

        Args:
            confidence: the probability of each prediction.
            correct: 1 where it is right, else 0.

        Raises:
            ValueError: no samples, or shapes that differ.
        """
        if confidence.ndim != 1 or confidence.shape != correct.shape or len(confidence) == 0:
            raise ValueError(
                f"adafocal: confidence of shape {list(confidence.shape)} and correct of shape {list(correct.shape)} "
                "came; give two of the same shape [samples], with at least one sample."
            )
        confidence, correct = confidence.to(self.gammas).double(), correct.to(self.gammas).double()
        ordered = confidence.sort().values
        # Bin b is closed by the largest confidence among its share of the samples.
        last = torch.arange(1, self.num_bins, device=ordered.device) * len(ordered) // self.num_bins - 1
        edges = ordered[last.clamp(min=0)]
        bins = torch.searchsorted(edges, confidence, side="left")
        sums = torch.zeros_like(self.gammas, dtype=torch.float64).index_add_(0, bins, confidence - correct)
        gap = sums / torch.bincount(bins, minlength=self.num_bins).clamp(min=1)
        self.edges.copy_(edges)
        self.gammas.copy_(
            next_gammas(self.gammas.double(), gap, rate=self.rate, switch=self.switch, least=self.least, most=self.most)
        )

    def forward(self, logits: Float[Tensor, "*rows classes"], target: Shaped[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Evaluate the loss; the class documents it."""
        return adafocal_loss(
            logits, target, self.edges, self.gammas, ignore_index=self.ignore_index, reduction=self.reduction
        )
