"""Out-of-distribution detection: how well a score tells samples like the training data from others."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lightning_losses.metrics.thresholds import counts_above
from lightning_losses.numerics.checks import check_floating
from lightning_losses.parallel.processes import rows_of_all

# The share of positives that a threshold must find.
_FOUND = 0.95


class DetectionScores(NamedTuple):
    """How well a score tells in-distribution (id) from out-of-distribution (ood) samples, in float64.

    Attributes:
        auroc: the share of pairs in which the in-distribution sample scores higher; an equal one is half.
        fpr95_id_positive: the share of out-of-distribution samples that are accepted by the highest threshold which
            accepts 95 % of the in-distribution samples.
        fpr95_ood_positive: the share of in-distribution samples that are flagged by the lowest threshold which flags
            95 % of the out-of-distribution samples.
        aupr_id: the average precision of finding in-distribution samples by high scores.
        aupr_ood: the average precision of finding out-of-distribution samples by low scores.
    """

    auroc: Float[Tensor, ""]
    fpr95_id_positive: Float[Tensor, ""]
    fpr95_ood_positive: Float[Tensor, ""]
    aupr_id: Float[Tensor, ""]
    aupr_ood: Float[Tensor, ""]


def out_of_distribution_detection(
    scores: Float[Tensor, " samples"], is_ood: Bool[Tensor, " samples"]
) -> DetectionScores:
    """How well scores tell samples like the training data from others; a monotone transform of them changes nothing.

    Two conventions of the false positive rate are in use, and differ: both are given, each with its positive class in
    its name. Thresholds are the scores that occur, with no interpolation, and equal scores pass together. Average
    precision sums precision over steps of recall.

    Args:
        scores: [N] higher for a sample that is more like the training data.
        is_ood: [N] which samples are out of distribution, True or 1.

    Raises:
        ValueError: shapes or dtypes that do not fit; scores that are NaN; marks other than 0 and 1; samples of one
            kind alone.

    Source:
        Liang, Li, Srikant, 2018, "Enhancing The Reliability of Out-of-distribution Image Detection in Neural Networks",
        arXiv:1706.02690, takes in-distribution samples for positives; Yang et al., 2022, "OpenOOD", arXiv:2210.07242,
        takes the others. OpenOOD's area under the precision-recall curve interpolates by trapezia, which is optimistic;
        this doesn't.

    Example:
        >>> scores, is_ood = torch.tensor([3.0, 2.0, 1.0, 0.0]), torch.tensor([False, True, False, True])
        >>> [round(value.item(), 3) for value in out_of_distribution_detection(scores, is_ood)]
        [0.75, 0.5, 0.5, 0.833, 0.833]
    """
    _check("out_of_distribution_detection", scores, is_ood)
    outside = is_ood.bool()
    foreign = int(outside.sum())
    if foreign in (0, len(outside)):
        raise ValueError(
            f"out_of_distribution_detection: {len(outside) - foreign} samples in distribution and {foreign} out of it "
            "came; give some of both."
        )
    confidence = scores.double()
    accepted_ood, accepted_id = counts_above(confidence, ~outside)
    flagged_id, flagged_ood = counts_above(-confidence, outside)
    auroc = torch.trapezoid(accepted_id / accepted_id[-1], accepted_ood / accepted_ood[-1])
    return DetectionScores(
        auroc,
        _false_positive_rate(accepted_ood, accepted_id),
        _false_positive_rate(flagged_id, flagged_ood),
        _average_precision(accepted_ood, accepted_id),
        _average_precision(flagged_id, flagged_ood),
    )


class OutOfDistributionDetection(Metric):
    """The measures of `out_of_distribution_detection` over batches and processes, whose scores are kept and gathered.

    Args:
        **options: of `torchmetrics.Metric`.

    Raises:
        ValueError: at the end, samples of one kind alone.

    Example:
        >>> metric = OutOfDistributionDetection()
        >>> metric.update(torch.tensor([3.0, 1.0]), torch.tensor([False, False]))
        >>> metric.update(torch.tensor([2.0, 0.0]), torch.tensor([True, True]))
        >>> metric.compute()["auroc"].item()
        0.75
    """

    is_differentiable: bool | None = False
    higher_is_better: bool | None = None
    full_state_update: bool | None = False
    scores: list[Tensor]
    is_ood: list[Tensor]

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"dist_sync_fn": rows_of_all, **options})
        for name in ("scores", "is_ood"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, scores: Float[Tensor, " samples"], is_ood: Bool[Tensor, " samples"]) -> None:
        """Add a batch's scores, higher for samples that are more like the training data."""
        _check("OutOfDistributionDetection", scores, is_ood)
        # Copies: the caller's own tensors may change later.
        self.scores.append(scores.detach().to(torch.float64, copy=True))
        self.is_ood.append(is_ood.to(torch.bool, copy=True))

    def compute(self) -> dict[str, Tensor]:
        """The measures by name."""
        empty = torch.zeros(0, device=self.device)
        scores = dim_zero_cat(self.scores) if len(self.scores) else empty
        is_ood = dim_zero_cat(self.is_ood) if len(self.is_ood) else empty.bool()
        return out_of_distribution_detection(scores, is_ood)._asdict()


def _false_positive_rate(wrong: Float[Tensor, " thresholds"], right: Float[Tensor, " thresholds"]) -> Float[Tensor, ""]:
    """The share of negatives at the first threshold that finds enough positives."""
    return (wrong / wrong[-1])[(right / right[-1] >= _FOUND).long().argmax()]


def _average_precision(wrong: Float[Tensor, " thresholds"], right: Float[Tensor, " thresholds"]) -> Float[Tensor, ""]:
    precision = right[1:] / (right[1:] + wrong[1:])
    return (right.diff() / right[-1] * precision).sum()


def _check(who: str, scores: Tensor, is_ood: Tensor) -> None:
    check_floating(who, "scores", scores)
    if scores.ndim != 1 or is_ood.shape != scores.shape:
        raise ValueError(
            f"{who}: is_ood of shape {list(is_ood.shape)} came with scores of shape {list(scores.shape)}; give one "
            "number for each sample."
        )
    if not bool(((is_ood == 0) | (is_ood == 1)).all()):
        raise ValueError(f"{who}: is_ood holds values other than 0 and 1; leave out samples of neither kind.")
    if bool(scores.isnan().any()):
        raise ValueError(f"{who}: {int(scores.isnan().sum())} scores are NaN; leave out samples that have none.")
