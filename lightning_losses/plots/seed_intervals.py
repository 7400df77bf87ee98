"""Means over seeds with their intervals, one row per run, in several stages, such as before and after calibration."""

import math
import re
from collections.abc import Mapping, Sequence
from textwrap import fill

from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lightning_losses.plots.style import COLORS, main_range, new_figure, paper_style

# The mean and the ends of its interval.
Interval = tuple[float, float, float]
_MARKERS = ("o", "D", "s", "^")


def seed_intervals(
    panels: Mapping[str, Mapping[str, Sequence[Interval]]],
    *,
    stages: Sequence[str],
    reference: str | None = None,
    label: str | None = None,
) -> Figure:
    """Draw a panel per metric or setting, a row per run, a mark per stage: the mean, with its interval as a bar.

    An axis begins at 0, unless all values are in its upper half. A single mean that would stretch the axis by half is
    drawn at its end, with an arrow and its value.

    Args:
        panels: by the axis' label and the run's label: for every stage, or the first ones, the mean and the ends of its
            interval. Ends of NaN draw no bar; a mean of NaN draws nothing.
        stages: the names of up to four stages.
        reference: the run whose means are extended as dashed lines, to compare the others with.
        label: the label of all axes, if the panels' names don't give it; the names are then above the panels.

    Returns:
        A figure outside pyplot's registry.

    Raises:
        ValueError: no panels, more stages than marks, or a run with more than there are stages.

    Example:
        >>> stages = {"before": (0.05, 0.04, 0.06), "after": (0.02, 0.0, 0.04)}
        >>> figure = seed_intervals({"ECE": {"ce": list(stages.values())}}, stages=list(stages))
        >>> figure.axes[0].get_xlabel()
        'ECE'
    """
    lines_of_all = [lines for panel in panels.values() for lines in panel.values()]
    if not panels or not 1 <= len(stages) <= len(_MARKERS) or any(len(lines) > len(stages) for lines in lines_of_all):
        raise ValueError(
            f"seed_intervals: {len(panels)} panels and {len(stages)} stages came; give some, and up to "
            f"{len(_MARKERS)} stages, with all or the first ones for each run."
        )
    # Of a stage that no run has there is nothing to tell.
    stages = stages[: max(map(len, lines_of_all), default=0)]
    runs = list(next(iter(panels.values())))
    with paper_style():
        # Many rows get less space each, to fit on a page.
        height = (0.22 if len(runs) <= 25 else 0.165) * len(runs) + 1.0
        # At most as wide as a page's column, so that text of 7 points keeps its size.
        width = min(2.6, 7.0 / len(panels))
        figure, axes = new_figure(columns=len(panels), width=width, height=height, share_y=True)
        for axis, (name, lines) in zip(axes, panels.items(), strict=True):
            means = [interval[0] for line in lines.values() for interval in line if not math.isnan(interval[0])]
            least, most = main_range(means) if means else (0.0, 0.0)
            # Others' bars, and an axis from 0, may reach as far as a mean that is far from the other means.
            ends = [end for line in lines.values() for one in line if least <= one[0] <= most
                    for end in one if not math.isnan(end)]  # fmt: skip
            least, most = min(ends, default=0.0), max(ends, default=0.0)
            least = 0.0 if 0 <= least < most / 2 else least
            beyond = []
            for order, stage in enumerate(stages):
                drawn = {row: lines[run][order] for row, run in enumerate(runs) if order < len(lines[run])}
                drawn = {row: interval for row, interval in drawn.items() if not math.isnan(interval[0])}
                # Next to each other, not on top of each other.
                beside = 0.3 * (order - (max(map(len, lines.values())) - 1) / 2)
                beyond += [
                    (row + beside, order, mean) for row, (mean, _, _) in drawn.items() if not least <= mean <= most
                ]
                drawn = {row: interval for row, interval in drawn.items() if least <= interval[0] <= most}
                ends += [number for interval in drawn.values() for number in interval if not math.isnan(number)]
                marks = axis.errorbar(
                    [mean for mean, _, _ in drawn.values()],
                    [row + beside for row in drawn],
                    xerr=bars(list(drawn.values())),
                    fmt=_MARKERS[order],
                    color=COLORS[order],
                    markersize=3.5,
                    elinewidth=0.9,
                    label=stage,
                    # Above the axis' line, which a mark at 0 lies on.
                    zorder=3,
                )
                unclip(marks)
                if reference is not None and order < len(lines[reference]) and runs.index(reference) in drawn:
                    mean = lines[reference][order][0]
                    axis.axvline(mean, color=COLORS[order], linestyle=(0, (4, 3)), linewidth=0.7, alpha=0.7, zorder=0)
            # Wrapped, so that it fits beside the runs' names, and neighbours don't overlap.
            if label is None:
                # A unit does not stand alone in a line.
                unbroken = re.sub(r" (\S{1,3})$", "\N{NO-BREAK SPACE}\\1", name)
                axis.set_xlabel(fill(unbroken, 16 if width > 2 else 14))
            else:
                axis.set_title(name if width > 2 else fill(name, 14), fontsize=9 if width > 2 else 7)
                axis.set_xlabel(label)
            axis.set_yticks(range(len(runs)), runs)
            axis.xaxis.set_major_locator(MaxNLocator(nbins=4 if width > 2 else 3))
            if ends and min(ends) < max(ends) / 2:
                axis.set_xlim(left=0.0 if min(ends) >= 0 else min(0.0, *axis.get_xlim()))
            for place, order, mean in beyond:
                _at_the_end(axis, place, mean, COLORS[order], high=mean > most)
        # The first run on top; the axes share this limit.
        axes[0].set_ylim(len(runs) - 0.4, -0.6)
        handles, labels = max((axis.get_legend_handles_labels() for axis in axes), key=lambda found: len(found[0]))
        if len(stages) > 1:
            # A single panel is too narrow for two names beside each other.
            ncols = len(stages) if len(panels) > 1 else 1
            figure.legend(handles, labels, loc="outside upper left", ncols=ncols)
    return figure


def _at_the_end(axis: Axes, place: float, mean: float, color: str, *, high: bool) -> None:
    """An arrow at the axis' end, and the value beyond it."""
    axis.annotate(
        f"{mean:.3g} \N{RIGHTWARDS ARROW}" if high else f"\N{LEFTWARDS ARROW} {mean:.3g}",
        (1.0 if high else 0.0, place),
        xycoords=axis.get_yaxis_transform(),
        ha="right" if high else "left",
        va="center",
        fontsize=7,
        color=color,
        # It may be on the reference's line.
        bbox={"facecolor": "#FFFFFF", "edgecolor": "none", "pad": 1.0},
    )


def unclip(marks: ErrorbarContainer) -> None:
    """Draw marks and bars whole, also where they are at an axis' end."""
    for artist in marks.get_children():
        artist.set_clip_on(False)
        # What is not clipped would otherwise move the panels, also where it has no point.
        artist.set_in_layout(False)


def bars(intervals: Sequence[Interval]) -> tuple[list[float], list[float]]:
    """The lengths of each interval below and above its mean; 0 without an interval.

    Example:
        >>> bars([(2.0, 1.0, 5.0), (2.0, math.nan, math.nan)])
        ([1.0, 0.0], [3.0, 0.0])
    """
    known = [(mean, mean, mean) if math.isnan(low) else (mean, low, high) for mean, low, high in intervals]
    return [mean - low for mean, low, _ in known], [high - mean for mean, _, high in known]
