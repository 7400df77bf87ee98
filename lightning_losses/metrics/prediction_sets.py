"""How often prediction sets and intervals hold what they should, and how large they are."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchmetrics import Metric

from lightning_losses.numerics.checks import check_count, check_number
from lightning_losses.numerics.regression import check_real
from lightning_losses.numerics.rows import labelled_rows


class _Counts(NamedTuple):
    """Sums over rows, by class [C] and by the size of the set [C + 1]."""

    class_rows: Tensor
    class_covered: Tensor
    size_rows: Tensor
    size_covered: Tensor

    @property
    def coverage(self) -> Tensor:
        return self.size_covered.sum() / self.size_rows.sum()

    @property
    def size(self) -> Tensor:
        sizes = torch.arange(len(self.size_rows), device=self.size_rows.device, dtype=torch.float64)
        return (sizes * self.size_rows).sum() / self.size_rows.sum()

    def violation(self, alpha: float, least: int) -> Tensor:
        # An empty set covers nothing; it belongs to a method whose sets of one class cover too much.
        both = torch.stack([self.size_rows, self.size_covered])
        rows, covered = torch.cat([both[:, :2].sum(dim=-1, keepdim=True), both[:, 2:]], dim=-1)
        kept = rows >= least
        gaps = (covered / rows.clamp(min=1) - (1 - alpha)).abs()
        return torch.where(kept, gaps, 0.0).amax() if bool(kept.any()) else gaps.new_tensor(torch.nan)


def set_coverage(
    sets: Bool[Tensor, "*rows classes"], target: Int[Tensor, "*rows"], *, ignore_index: int = -100
) -> Float[Tensor, ""]:
    """The share of the rows whose set holds their class; NaN without rows.

    Args:
        sets: [..., C], True where a class is in the set.
        target: [...] class indices.
        ignore_index: rows with this target are left out.

    Raises:
        ValueError: shapes or dtypes that do not fit; targets outside the classes.

    Example:
        >>> set_coverage(torch.tensor([[True, False], [True, False]]), torch.tensor([0, 1])).item()
        0.5
    """
    return _counts("set_coverage", sets, target, ignore_index).coverage


def set_size(
    sets: Bool[Tensor, "*rows classes"], target: Int[Tensor, "*rows"], *, ignore_index: int = -100
) -> Float[Tensor, ""]:
    """The mean number of classes in a set; NaN without rows.

    Args:
        sets, target, ignore_index: as `set_coverage` takes them.

    Example:
        >>> set_size(torch.tensor([[True, False], [True, True]]), torch.tensor([0, 1])).item()
        1.5
    """
    return _counts("set_size", sets, target, ignore_index).size


def classwise_coverage(
    sets: Bool[Tensor, "*rows classes"], target: Int[Tensor, "*rows"], *, ignore_index: int = -100
) -> Float[Tensor, " classes"]:
    """The coverage of each class, [C]; NaN for a class without rows.

    Args:
        sets, target, ignore_index: as `set_coverage` takes them.

    Example:
        >>> classwise_coverage(torch.tensor([[True, False], [True, False]]), torch.tensor([0, 1])).tolist()
        [1.0, 0.0]
    """
    counts = _counts("classwise_coverage", sets, target, ignore_index)
    return counts.class_covered / counts.class_rows


def size_stratified_violation(
    sets: Bool[Tensor, "*rows classes"],
    target: Int[Tensor, "*rows"],
    *,
    alpha: float,
    least: int = 20,
    ignore_index: int = -100,
) -> Float[Tensor, ""]:
    """How far coverage is from ``1 - alpha`` among sets of one size, for the size where it is farthest.

    Sets that adapt to how hard a row is have nearly the same coverage at every size. Empty sets and sets of one class
    are looked at together. Sizes with fewer than `least` rows are left out, since their coverage is mostly noise; NaN
    if none is left.

    Args:
        sets, target, ignore_index: as `set_coverage` takes them.
        alpha: the share that was allowed to be missed.
        least: how many rows a size needs, at least 1.

    Source:
        Angelopoulos, Bates, Malik, Jordan, 2021, "Uncertainty Sets for Image Classifiers using Conformal Prediction",
        arXiv:2009.14193, with ranges of sizes, of which the first is 0 to 1.

    Example:
        >>> sets, target = torch.tensor([[True, False], [True, True]]), torch.tensor([1, 1])
        >>> size_stratified_violation(sets, target, alpha=0.25, least=1).item()
        0.75
    """
    check_number("size_stratified_violation", "alpha", alpha, least=0, most=1)
    check_count("size_stratified_violation", "least", least)
    return _counts("size_stratified_violation", sets, target, ignore_index).violation(alpha, least)


class PredictionSetMetrics(Metric):
    """Coverage and size of prediction sets, exact over batches and processes.

    Args:
        num_classes: C.
        alpha: the share that was allowed to be missed.
        least: how many rows a class, or a size of sets, needs to be looked at by itself.
        ignore_index: rows with this target are left out.
        **kwargs: those of torchmetrics.

    Returns:
        By name, float64: "coverage"; "set_size"; "empty", the share of empty sets; "worst_class_coverage", NaN if no
        class has enough rows; "size_stratified_violation".

    Raises:
        ValueError: shapes or dtypes that do not fit; another number of classes; targets outside the classes.

    Example:
        >>> metric = PredictionSetMetrics(num_classes=2, alpha=0.1, least=1)
        >>> metric.update(torch.tensor([[True, False], [True, True]]), torch.tensor([0, 1]))
        >>> metric.compute()["set_size"].item()
        1.5
    """

    is_differentiable: bool | None = False
    higher_is_better: bool | None = None
    full_state_update: bool | None = False

    def __init__(
        self, num_classes: int, alpha: float = 0.1, least: int = 20, ignore_index: int = -100, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        check_count("PredictionSetMetrics", "num_classes", num_classes)
        check_number("PredictionSetMetrics", "alpha", alpha, least=0, most=1)
        check_count("PredictionSetMetrics", "least", least)
        self.num_classes = num_classes
        self.alpha = alpha
        self.least = least
        self.ignore_index = ignore_index
        for name, length in zip(_Counts._fields, (num_classes, num_classes, *2 * (num_classes + 1,)), strict=True):
            self.add_state(name, torch.zeros(length, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, sets: Bool[Tensor, "*rows classes"], target: Int[Tensor, "*rows"]) -> None:
        """Add a batch of sets and targets."""
        if sets.shape[-1] != self.num_classes:
            raise ValueError(
                f"PredictionSetMetrics: sets of shape {list(sets.shape)} came; give [..., {self.num_classes}], as many "
                "as num_classes."
            )
        counts = _counts("PredictionSetMetrics", sets, target, self.ignore_index)
        for name, count in counts._asdict().items():
            setattr(self, name, getattr(self, name) + count)

    def compute(self) -> dict[str, Tensor]:
        """The measures over all batches so far; NaN without rows."""
        counts = _Counts(*(getattr(self, name) for name in _Counts._fields))
        each = (counts.class_covered / counts.class_rows)[counts.class_rows >= self.least]
        return {
            "coverage": counts.coverage,
            "set_size": counts.size,
            "empty": counts.size_rows[0] / counts.size_rows.sum(),
            "worst_class_coverage": each.amin() if len(each) else counts.size_rows.new_tensor(torch.nan),
            "size_stratified_violation": counts.violation(self.alpha, self.least),
        }


def interval_coverage(
    intervals: Float[Tensor, "*values 2"], regression_target: Float[Tensor, "*values"]
) -> Float[Tensor, ""]:
    """The share of the numbers that lie within their interval; NaN without numbers, and where one or an end is NaN.

    Args:
        intervals: [..., 2], the lower and the upper ends, which belong to them.
        regression_target: [...].

    Raises:
        ValueError: shapes or dtypes that do not fit.

    Example:
        >>> interval_coverage(torch.tensor([[0.0, 1.0], [0.0, 1.0]]), torch.tensor([1.0, 2.0])).item()
        0.5
    """
    _check_intervals("interval_coverage", intervals)
    check_real("interval_coverage", "regression_target", regression_target)
    if intervals.shape[:-1] != regression_target.shape:
        raise ValueError(
            f"interval_coverage: intervals of shape {list(intervals.shape)} came with regression_target of shape "
            f"{list(regression_target.shape)}; give [..., 2] and [...]."
        )
    low, high = intervals.unbind(dim=-1)
    within = ((low <= regression_target) & (regression_target <= high)).double()
    return within.masked_fill(low.isnan() | high.isnan() | regression_target.isnan(), torch.nan).mean()


def interval_width(intervals: Float[Tensor, "*values 2"]) -> Float[Tensor, ""]:
    """The mean width of intervals; NaN without intervals.

    Args:
        intervals: [..., 2], the lower and the upper ends.

    Example:
        >>> interval_width(torch.tensor([[0.0, 1.0], [0.0, 3.0]])).item()
        2.0
    """
    _check_intervals("interval_width", intervals)
    return (intervals[..., 1] - intervals[..., 0]).double().mean()


def _check_intervals(who: str, intervals: Tensor) -> None:
    check_real(who, "intervals", intervals)
    if intervals.shape[-1] != 2:
        raise ValueError(f"{who}: intervals of shape {list(intervals.shape)} came; give [..., 2], both ends of each.")


def _counts(who: str, sets: Tensor, target: Tensor, ignore_index: int) -> _Counts:
    if not isinstance(sets, Tensor) or sets.dtype != torch.bool or sets.ndim == 0:
        came = f"{sets.dtype} of shape {list(sets.shape)}" if isinstance(sets, Tensor) else type(sets).__name__
        raise ValueError(f"{who}: sets came as {came}; give bool [..., C], True where a class is in the set.")
    if not isinstance(target, Tensor) or target.dtype != torch.int64 or target.shape != sets.shape[:-1]:
        came = f"{target.dtype} of shape {list(target.shape)}" if isinstance(target, Tensor) else type(target).__name__
        raise ValueError(
            f"{who}: target came as {came} with sets of shape {list(sets.shape)}; give int64 class indices "
            f"{list(sets.shape[:-1])}."
        )
    classes = sets.shape[-1]
    kept = labelled_rows(target, ignore_index)
    rows, labels = sets[kept], target[kept]
    if len(labels) and (int(labels.min()) < 0 or int(labels.max()) >= classes):
        raise ValueError(
            f"{who}: targets from {int(labels.min())} to {int(labels.max())} came with {classes} classes; give 0 to "
            f"{classes - 1}, or ignore_index={ignore_index}."
        )
    covered = rows.gather(-1, labels.unsqueeze(-1)).squeeze(-1).double()
    sizes = rows.sum(dim=-1)

    def total(groups: Tensor, length: int, weights: Tensor) -> Tensor:
        return torch.zeros(length, dtype=torch.float64, device=groups.device).index_add(0, groups, weights)

    ones = torch.ones_like(covered)
    return _Counts(
        total(labels, classes, ones),
        total(labels, classes, covered),
        total(sizes, classes + 1, ones),
        total(sizes, classes + 1, covered),
    )
