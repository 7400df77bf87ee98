"""What a run costs and what it is worth: a point a run, the best for its cost named."""

import itertools
import math
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from lightning_losses.plots.seed_intervals import bars
from lightning_losses.plots.style import COLORS, new_figure, paper_style

# Cost, accuracy and the ends of the accuracy's interval.
Point = tuple[float, float, float, float]
# Up to as many runs, every one is named.
_ALL_NAMED = 8
_REFERENCE = COLORS[1]
_MARKERS = ("o", "D", "^", "v", "P", "X")


def accuracy_against_cost(
    panels: Mapping[str, Mapping[str, Point]],
    *,
    reference: str | None = None,
    cost: str = "seconds",
    accuracy: str = "accuracy",
) -> Figure:
    """Draw a panel a setting: every run's accuracy, with its interval, against its cost.

    Named are the runs that no other beats in both (with few runs, all of them) and the reference.

    Args:
        panels: by the panel's title, "" for none, by the run's label, its cost, accuracy, and the ends of the
            accuracy's interval, NaN for none; a run with NaN as cost or accuracy is left out.
        reference: the run that the others are compared with.
        cost, accuracy: what the axes are called.

    Returns:
        A figure outside pyplot's registry.

    Raises:
        ValueError: no panels.

    Example:
        >>> points = {"ce": (1.0, 90.0, 89.5, 90.5), "kd": (2.0, 92.0, 91.6, 92.4)}
        >>> figure = accuracy_against_cost({"": points}, reference="ce")
        >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
        ['ce', 'kd']
    """
    if not panels:
        raise ValueError("accuracy_against_cost: no panels came; give at least one.")
    columns = min(len(panels), 3)
    with paper_style():
        figure, axes = new_figure(columns, math.ceil(len(panels) / columns), width=3.0, height=3.0)
        for axis, (title, runs) in zip(axes, panels.items(), strict=False):
            points = {run: point for run, point in runs.items() if not any(map(math.isnan, point[:2]))}
            front = best_for_their_cost(points)
            named = [run for run in points if len(points) <= _ALL_NAMED or run in front or run == reference]
            others = [run for run in points if run not in named]
            axis.errorbar(
                *_bars([points[run] for run in others]), fmt="o", color="#a6a6a6", markersize=3, elinewidth=0.5
            )
            colors = itertools.cycle(color for color in COLORS if color != _REFERENCE)
            for place, run in enumerate(sorted(named, key=lambda run: points[run][0])):
                own = run == reference
                axis.errorbar(
                    *_bars([points[run]]), fmt="s" if own else _MARKERS[place % len(_MARKERS)],
                    color=_REFERENCE if own else next(colors), markersize=5, elinewidth=0.9, zorder=3, label=run,
                )  # fmt: skip
            axis.plot(
                [points[run][0] for run in front],
                [points[run][1] for run in front],
                color="#555555",
                linewidth=0.7,
                zorder=2.5,
            )
            if named:
                # Below the panel: wherever it stood within, it would hide points of some comparison.
                axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2, fontsize=7, handletextpad=0.2)
            axis.set_title(title)
            axis.set_xlabel(cost)
            axis.set_ylabel(accuracy)
        for axis in axes[len(panels) :]:
            axis.remove()
    return figure


def _bars(points: Sequence[Point]) -> tuple[list[float], list[float], tuple[list[float], list[float]]]:
    return [x for x, *_ in points], [y for _, y, *_ in points], bars([point[1:] for point in points])


def best_for_their_cost(points: Mapping[str, Point]) -> list[str]:
    """The runs of which no other is both as cheap and more accurate, or cheaper and as accurate; by cost.

    Example:
        >>> best_for_their_cost({"a": (1, 90, 90, 90), "b": (2, 89, 89, 89), "c": (3, 91, 91, 91)})
        ['a', 'c']
    """
    found: list[str] = []
    for run in sorted(points, key=lambda run: (points[run][0], -points[run][1])):
        if not found or points[run][1] > points[found[-1]][1]:
            found.append(run)
    return found
