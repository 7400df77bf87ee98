"""The reliability diagram: accuracy against confidence, with gaps, intervals and a histogram, before and after."""

import torch
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from lightning_losses.metrics.bins import (
    Binned,
    Binning,
    bin_sums,
    binned,
    bins_of,
    check_bins,
    confidences,
)
from lightning_losses.metrics.bootstrap import Interval, proportion_interval
from lightning_losses.metrics.calibration_interval import calibration_interval
from lightning_losses.metrics.predictions import Inputs, Task, checked_predictions
from lightning_losses.numerics.bins import width_bins
from lightning_losses.plots.seed_intervals import unclip
from lightning_losses.plots.style import COLORS, paper_style


def reliability_diagram(
    predictions: Float[Tensor, "..."],
    target: Int[Tensor, "..."],
    *,
    inputs: Inputs,
    after: Float[Tensor, "..."] | None = None,
    names: tuple[str, str] = ("before", "after"),
    task: Task = "multiclass",
    num_bins: int = 15,
    binning: Binning = "width",
    level: float = 0.95,
    resamples: int = 200,
    title: str | None = None,
    ignore_index: int = -100,
) -> Figure:
    """Draw a reliability diagram above a histogram of confidence.

    Each bin's bar is its accuracy, with a Wilson score interval; the hatched bar is the gap to its mean confidence.
    The legend gives the expected calibration error and its interval from `calibration_interval`. With `after`, in both
    panels the bars show the calibrated predictions and a line the uncalibrated ones.

    Args:
        predictions: [..., C] for "multiclass", [...] for "binary", [..., L] for "multilabel" (all labels pooled).
        target: [...] class indices; 0 or 1 for "binary" and "multilabel".
        inputs: "logits" or "probabilities", for `predictions` and `after`.
        after: the same samples' predictions after calibration.
        names: the labels of `predictions` and `after`.
        task: the task, which determines the shapes.
        num_bins: at least 1.
        binning: "width" or "mass".
        level: the confidence of all intervals, in (0, 1).
        resamples: number of bootstrap resamples.
        title: the title above the figure.
        ignore_index: rows with this target are left out.

    Returns:
        A figure outside pyplot's registry; `plots.style.save_figure` writes it.

    Raises:
        ValueError: shapes or options that do not fit; NaN or probabilities out of range; no samples.

    Source:
        DeGroot, Fienberg, 1983, "The Comparison and Evaluation of Forecasters"; Niculescu-Mizil, Caruana, 2005,
        "Predicting Good Probabilities with Supervised Learning". Wilson, 1927, for the bars' intervals.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]])
        >>> figure = reliability_diagram(logits, torch.tensor([0, 1, 1]), inputs="logits", after=logits / 2)
        >>> [axis.get_ylabel() for axis in figure.axes]
        ['accuracy', 'samples']
    """
    check_bins("reliability_diagram", num_bins)

    def series(values: Tensor) -> "_Series":
        given = checked_predictions(
            "reliability_diagram", values, target, inputs=inputs, task=task, ignore_index=ignore_index
        )
        if given.target.numel() == 0:
            raise ValueError("reliability_diagram: no samples came; there is nothing to draw.")
        confidence, outcome = confidences(given)
        return _Series(confidence.reshape(-1, 1), outcome.reshape(-1, 1), num_bins, binning, level, resamples)

    before = series(predictions)
    shown = before if after is None else series(after)
    outcome_name = "accuracy" if task == "multiclass" else "frequency of 1"
    with paper_style():
        figure = Figure(figsize=(3.4, 4.4), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        _draw_bars(above, shown, shown.summary(outcome_name if after is None else names[1]))
        _draw_histogram(below, shown)
        if after is not None:
            _draw_line(above, below, before, before.summary(names[0]))
        above.plot([0, 1], [0, 1], color="#777777", linewidth=0.8, linestyle="--", zorder=1)
        above.set(xlim=(0, 1), ylim=(0, 1), ylabel=outcome_name)
        below.set(xlabel="confidence" if task == "multiclass" else "probability of 1", ylabel="samples")
        if title:
            above.set_title(title)
        figure.legend(loc="outside upper left", fontsize=7.5, labelspacing=0.3, handlelength=1.6)
        figure.align_ylabels((above, below))
    return figure


class _Series:
    """The bins of one set of predictions with their intervals, on the host."""

    def __init__(
        self, confidence: Tensor, outcome: Tensor, num_bins: int, binning: Binning, level: float, resamples: int
    ) -> None:
        index = bins_of(confidence, num_bins, binning)
        bins = binned(bin_sums(confidence, outcome, index, num_bins))
        filled = bins.samples[:, 0] > 0
        self.bins = Binned(*(values[filled, 0].cpu() for values in bins))
        if binning == "width":
            edges = torch.arange(num_bins + 1, dtype=torch.float64) / num_bins
            self.left, self.width = edges[:-1][filled.cpu()], torch.full((int(filled.sum()),), 1 / num_bins)
        else:
            upper = torch.stack([confidence[index == b].max() for b in torch.nonzero(filled)[:, 0]]).double().cpu()
            self.left = torch.cat([confidence.min().double().cpu().reshape(1), upper[:-1]])
            self.width = upper - self.left

        def error(drawn: Binned) -> Tensor:
            gaps = drawn.samples * (drawn.confidence - drawn.outcome).abs()
            return gaps.sum(dim=(-2, -1)) / drawn.samples.sum(dim=(-2, -1))

        sizes = bin_sums(confidence, outcome, width_bins(confidence, num_bins), num_bins)[0, :, 0]
        self.histogram: list[float] = sizes.tolist()
        self.error = float(error(bins))
        self.interval: Interval = calibration_interval(
            confidence, outcome, index, num_bins, error, error, exclusive=False, level=level, resamples=resamples
        )
        self.level = level

    def summary(self, name: str) -> str:
        low, high = (100 * float(end) for end in (self.interval.low, self.interval.high))
        return f"{name}, ECE {100 * self.error:.1f} % [{low:.1f}, {high:.1f}]"

    def whiskers(self) -> tuple[list[float], list[float]]:
        """The lengths of each bin's Wilson interval below and above its outcome."""
        low, high = proportion_interval(self.bins.outcome, self.bins.samples, self.level)
        below, above = self.bins.outcome - low, high - self.bins.outcome
        return below.clamp(min=0).tolist(), above.clamp(min=0).tolist()


def _draw_bars(axes: Axes, series: _Series, label: str) -> None:
    left, width = series.left.tolist(), series.width.tolist()
    outcome, confidence = series.bins.outcome, series.bins.confidence
    axes.bar(
        left,
        outcome.tolist(),
        width,
        align="edge",
        color=COLORS[0],
        alpha=0.75,
        edgecolor="white",
        linewidth=0.6,
        label=label,
        zorder=2,
    )
    axes.bar(
        left,
        (confidence - outcome).tolist(),
        width,
        bottom=outcome.tolist(),
        align="edge",
        facecolor="none",
        edgecolor=COLORS[1],
        hatch="//////",
        linewidth=0.6,
        label="gap to confidence",
        zorder=3,
    )
    centres = (series.left + series.width / 2).tolist()
    whiskers = axes.errorbar(
        centres,
        outcome.tolist(),
        yerr=series.whiskers(),
        fmt="none",
        ecolor="#222222",
        elinewidth=0.8,
        capsize=1.5,
        zorder=4,
    )
    unclip(whiskers)


def _draw_histogram(axes: Axes, series: _Series) -> None:
    counts, width, top = series.histogram, 1 / len(series.histogram), max(series.histogram)
    left = [b * width for b in range(len(counts))]
    axes.bar(left, counts, width, align="edge", color=COLORS[0], alpha=0.75, edgecolor="white", linewidth=0.6)
    axes.set_ylim(0, 1.1 * top)


def _draw_line(above: Axes, below: Axes, series: _Series, label: str) -> None:
    points = above.errorbar(
        series.bins.confidence.tolist(),
        series.bins.outcome.tolist(),
        yerr=series.whiskers(),
        color=COLORS[6],
        marker="o",
        markersize=3,
        markerfacecolor="white",
        linewidth=1.0,
        elinewidth=0.6,
        capsize=1.5,
        label=label,
        zorder=5,
    )
    # A point at an accuracy or a confidence of 1 is on the edge.
    unclip(points)
    bins = len(series.histogram)
    below.stairs(series.histogram, [b / bins for b in range(bins + 1)], color=COLORS[6], linewidth=1.0)
    below.set_ylim(0, max(below.get_ylim()[1], 1.1 * max(series.histogram)))
