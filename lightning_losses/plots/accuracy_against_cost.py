"""Accuracy against cost: a point for each run; runs worth their cost are named."""

import itertools
import math
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from lightning_losses.plots.seed_intervals import bars
from lightning_losses.plots.style import COLORS, main_range, new_figure, paper_style

# Cost, accuracy and the ends of the accuracy's interval.
Point = tuple[float, float, float, float]
# Up to this many runs, all are named.
_ALL_NAMED = 8
_REFERENCE = COLORS[1]
# Distance of off-panel points from the others, as a share of the range.
_MARGIN = 0.08
_MARKERS = ("o", "D", "^", "v", "P", "X")


def accuracy_against_cost(
    panels: Mapping[str, Mapping[str, Point]],
    *,
    reference: str | None = None,
    cost: str = "seconds",
    accuracy: str = "accuracy",
) -> Figure:
    """Draw a panel for each setting: every run's accuracy, with its interval, against its cost.

    Labels name the runs that are worth their cost (with few runs, all of them), the reference, the most and the
    least accurate run, and those far from the others, which are drawn at the panel's edge, with their values in the
    label. A line joins the runs worth their cost, if there are several. Points of one cost are drawn side by side.

    Args:
        panels: by the panel's title ("" for none) and the run's label: its cost, accuracy, and the ends of the
            accuracy's interval (NaN for none). A run with NaN as cost or accuracy is left out.
        reference: the run that the others are compared with.
        cost, accuracy: the labels of the axes.

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
        figure, axes = new_figure(columns, math.ceil(len(panels) / columns), width=min(3.0, 7.0 / columns), height=2.9)
        for axis, (title, runs) in zip(axes, panels.items(), strict=False):
            points = {run: point for run, point in runs.items() if not any(map(math.isnan, point[:2]))}
            front = best_for_their_cost(points)
            by_accuracy = sorted(points, key=lambda run: (points[run][1], -points[run][0]))
            extremes = {by_accuracy[0], by_accuracy[-1]} if points else set()
            points, labels = _within_the_panel(points)
            off = [run for run in points if labels[run] != run]
            named = [run for run in points if len(points) <= _ALL_NAMED or run in {*front, *extremes, *off, reference}]
            points = _side_by_side(points)
            others = [run for run in points if run not in named]
            axis.errorbar(
                *_bars([points[run] for run in others]), fmt="o", color="#a6a6a6", markersize=3, elinewidth=0.5
            )
            colors = itertools.cycle(color for color in COLORS if color != _REFERENCE)
            for place, run in enumerate(sorted(named, key=lambda run: points[run][0])):
                own = run == reference
                axis.errorbar(
                    *_bars([points[run]]), fmt="s" if own else _MARKERS[place % len(_MARKERS)],
                    color=_REFERENCE if own else next(colors), markersize=5, elinewidth=0.9, zorder=3,
                    label=labels[run],
                )  # fmt: skip
            axis.plot(
                [points[run][0] for run in front],
                [points[run][1] for run in front],
                color="#555555",
                linewidth=0.7,
                zorder=2.5,
            )
            if named:
                # Below the panel, because inside it would hide points.
                axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2, fontsize=7, handletextpad=0.2)
            axis.set_title(title)
            axis.set_xlabel(cost)
            axis.set_ylabel(accuracy)
        for axis in axes[len(panels) :]:
            axis.remove()
    return figure


def _bars(points: Sequence[Point]) -> tuple[list[float], list[float], tuple[list[float], list[float]]]:
    return [x for x, *_ in points], [y for _, y, *_ in points], bars([point[1:] for point in points])


def _within_the_panel(points: Mapping[str, Point]) -> tuple[dict[str, Point], dict[str, str]]:
    """The points, with those far from the others moved to the panel's edge, and labels that give their values."""
    if not points:
        return {}, {}
    cheapest, dearest = main_range([cost for cost, *_ in points.values()])
    worst, best = main_range([accuracy for _, accuracy, *_ in points.values()])
    placed, labels = {}, {}
    for run, (cost, accuracy, low, high) in points.items():
        x = min(max(cost, cheapest - _MARGIN * (dearest - cheapest)), dearest + _MARGIN * (dearest - cheapest))
        y = min(max(accuracy, worst - _MARGIN * (best - worst)), best + _MARGIN * (best - worst))
        moved = (x, y) != (cost, accuracy)
        placed[run] = (x, y, math.nan, math.nan) if moved else (cost, accuracy, low, high)
        labels[run] = f"{run} ({cost:.3g}, {accuracy:.3g}, off the panel)" if moved else run
    return placed, labels


def _side_by_side(points: Mapping[str, Point]) -> dict[str, Point]:
    """The points, with those of one cost moved apart, since one would hide the other."""
    if not points:
        return {}
    costs = [cost for cost, *_ in points.values()]
    whole = max(costs) - min(costs)
    groups: list[list[str]] = []
    for run in sorted(points, key=lambda run: points[run][0]):
        if groups and points[run][0] - points[groups[-1][0]][0] <= 0.005 * whole:
            groups[-1].append(run)
        else:
            groups.append([run])
    moved = {run: 0.03 * whole * (place - (len(group) - 1) / 2) for group in groups for place, run in enumerate(group)}
    return {run: (cost + moved[run], *others) for run, (cost, *others) in points.items()}  # type: ignore[misc]


def best_for_their_cost(points: Mapping[str, Point]) -> list[str]:
    """The runs that are worth their cost, from the cheapest on.

    Each is more accurate than the previous one by more than its own interval. If a better run costs less than a quarter
    more than the previous one, it replaces it, because times vary that much. Without an interval the mean decides.

    Example:
        >>> best_for_their_cost({"a": (1, 90, 89, 91), "b": (2, 90.5, 89, 92), "c": (3, 95, 94, 96)})
        ['a', 'c']
    """
    found: list[str] = []
    for run in sorted(points, key=lambda run: (points[run][0], -points[run][1])):
        cost, accuracy, low, _ = points[run]
        if found and (accuracy if math.isnan(low) else low) <= points[found[-1]][1]:
            continue
        if found and cost < 1.25 * points[found[-1]][0]:
            found.pop()
        found.append(run)
    return found
