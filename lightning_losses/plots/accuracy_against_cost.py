"""What a run costs and what it is worth: a point a run, the best for its cost named."""

import math
from collections.abc import Mapping

from matplotlib.figure import Figure

from lightning_losses.plots.style import COLORS, new_figure, paper_style

# Cost, accuracy and half of the accuracy's interval.
Point = tuple[float, float, float]
# Up to as many runs, every one is named.
_ALL_NAMED = 8


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
        panels: by the panel's title, "" for none, by the run's label, its cost, accuracy, and the half width of the
            accuracy's interval, NaN for none; a run with NaN as cost or accuracy is left out.
        reference: the run that the others are compared with.
        cost, accuracy: what the axes are called.

    Returns:
        A figure outside pyplot's registry.

    Raises:
        ValueError: no panels.

    Example:
        >>> figure = accuracy_against_cost({"": {"ce": (1.0, 90.0, 0.5), "kd": (2.0, 92.0, 0.4)}}, reference="ce")
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['ce', 'kd']
    """
    if not panels:
        raise ValueError("accuracy_against_cost: no panels came; give at least one.")
    columns = min(len(panels), 3)
    with paper_style():
        figure, axes = new_figure(columns, math.ceil(len(panels) / columns), width=3.0, height=2.5)
        for axis, (title, runs) in zip(axes, panels.items(), strict=False):
            points = {run: point for run, point in runs.items() if not any(map(math.isnan, point[:2]))}
            front = best_for_their_cost(points)
            for run, (x, y, half) in points.items():
                color = COLORS[1] if run == reference else COLORS[0] if run in front else "#9a9a9a"
                axis.errorbar(
                    x, y, yerr=0 if math.isnan(half) else half, fmt="s" if run == reference else "o", color=color,
                    markersize=4.5 if run == reference or run in front else 3, elinewidth=0.8,
                    zorder=3 if run == reference or run in front else 2,
                )  # fmt: skip
            axis.plot(
                [points[run][0] for run in front],
                [points[run][1] for run in front],
                color=COLORS[0],
                linewidth=0.8,
                zorder=2.5,
            )
            named = [run for run in points if len(points) <= _ALL_NAMED or run in front or run == reference]
            axis.margins(x=0.12, y=0.12)
            for run in sorted(named, key=lambda run: points[run][0]):
                # Above what is on the front, below what isn't; towards the middle of the panel.
                x, y, _ = points[run]
                right = x > sum(point[0] for point in points.values()) / len(points)
                axis.annotate(
                    run, (x, y), xytext=(-4 if right else 4, 4 if run in front else -4), textcoords="offset points",
                    ha="right" if right else "left", va="bottom" if run in front else "top", fontsize=7, zorder=4,
                )  # fmt: skip
            axis.set_title(title)
            axis.set_xlabel(cost)
            axis.set_ylabel(accuracy)
        for axis in axes[len(panels) :]:
            axis.remove()
    return figure


def best_for_their_cost(points: Mapping[str, Point]) -> list[str]:
    """The runs of which no other is both as cheap and more accurate, or cheaper and as accurate; by cost.

    Example:
        >>> best_for_their_cost({"a": (1.0, 90.0, 0.0), "b": (2.0, 89.0, 0.0), "c": (3.0, 91.0, 0.0)})
        ['a', 'c']
    """
    found: list[str] = []
    for run in sorted(points, key=lambda run: (points[run][0], -points[run][1])):
        if not found or points[run][1] > points[found[-1]][1]:
            found.append(run)
    return found
