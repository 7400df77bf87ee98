"""Means over seeds with their intervals, a line a run: before and after something is done to it."""

import math
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from lightning_losses.plots.style import COLORS, new_figure, paper_style

Interval = tuple[float, float]
_MARKERS = ("o", "D", "s", "^")


def seed_intervals(panels: Mapping[str, Mapping[str, Sequence[Interval]]], *, stages: Sequence[str]) -> Figure:
    """Draw a panel a metric, a line a run, a mark a stage: the mean, and its interval as a bar.

    Args:
        panels: by the axis' label, by the run's label, the mean and the half width of every stage; a half width of NaN
            draws no bar.
        stages: what they are called, up to four.

    Returns:
        A figure outside pyplot's registry.

    Raises:
        ValueError: no panels, or a run whose stages are not as many.

    Example:
        >>> figure = seed_intervals({"ECE": {"ce": [(0.05, 0.01), (0.02, 0.01)]}}, stages=["before", "after"])
        >>> figure.axes[0].get_xlabel()
        'ECE'
    """
    if not panels or not 1 <= len(stages) <= len(_MARKERS):
        raise ValueError(
            f"seed_intervals: {len(panels)} panels and {len(stages)} stages came; give some, and up to "
            f"{len(_MARKERS)} stages."
        )
    runs = list(next(iter(panels.values())))
    with paper_style():
        height = 0.22 * len(runs) + 1.0
        figure, axes = new_figure(columns=len(panels), width=2.6, height=height, share_y=True)
        for axis, (label, lines) in zip(axes, panels.items(), strict=True):
            for order, stage in enumerate(stages):
                chosen = [lines[run][order] for run in runs]
                # Beside each other, not upon each other.
                rows = [row + 0.3 * (order - (len(stages) - 1) / 2) for row in range(len(runs))]
                axis.errorbar(
                    [mean for mean, _ in chosen],
                    rows,
                    xerr=[0.0 if math.isnan(half) else half for _, half in chosen],
                    fmt=_MARKERS[order],
                    color=COLORS[order],
                    markersize=3.5,
                    elinewidth=0.9,
                    label=stage,
                )
            axis.set_xlabel(label)
            axis.set_yticks(range(len(runs)), runs)
            axis.set_xlim(left=min(0.0, *axis.get_xlim()))
        # The first run on top; the axes share it.
        axes[0].set_ylim(len(runs) - 0.4, -0.6)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=len(stages))
    return figure
