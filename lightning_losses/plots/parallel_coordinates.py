"""Parallel coordinates: a line for each run through an axis for each hyperparameter and one for the result."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from lightning_losses.plots.style import COLORS, new_figure, paper_style

# The height of a line on an axis where its run has no value.
_BELOW = -0.14
# The spread of the lines of one category, as a share of the space between two categories.
_SPREAD = 0.35
# The ratio of the largest to the smallest score above which the axis is logarithmic.
_FAR = 4


@dataclass(frozen=True)
class Coordinate:
    """One axis.

    Attributes:
        label: the axis's label.
        values: one per run: numbers, or texts for a list of choices; None if the run has no value.
        logarithmic: whether the scale is logarithmic.
    """

    label: str
    values: Sequence[float | str | None]
    logarithmic: bool = False

    @property
    def categorical(self) -> bool:
        """Whether the values are choices."""
        return any(isinstance(value, str) for value in self.values)


def parallel_coordinates(
    coordinates: Sequence[Coordinate], scores: Sequence[float], *, score: str, smaller_is_better: bool = True
) -> Figure:
    """Draw one line per run: the better the score, the darker the line; the best one is highlighted.

    Args:
        coordinates: the axes from left to right, with one value per run.
        scores: the last axis, one finite number per run; better is up.
        score: the label of the scores.
        smaller_is_better: whether smaller scores are better.

    Returns:
        A figure outside pyplot's registry.

    Raises:
        ValueError: no coordinates, no runs, or numbers of values that differ.

    Example:
        >>> rates = Coordinate("lr", [0.1, 0.01, 0.001], logarithmic=True)
        >>> figure = parallel_coordinates([rates], [0.5, 0.2, 0.3], score="loss")
        >>> len(figure.axes[0].collections[0].get_segments())
        3
    """
    counts = {len(coordinate.values) for coordinate in coordinates} | {len(scores)}
    if not coordinates or counts != {len(scores)} or not scores:
        raise ValueError(
            f"parallel_coordinates: {len(coordinates)} coordinates and {len(scores)} scores came; give at least one of "
            "each, with a value for every run."
        )
    order = sorted(range(len(scores)), key=lambda run: -scores[run] if smaller_is_better else scores[run])
    with paper_style():
        figure, (axes,) = new_figure(width=1.15 * (len(coordinates) + 1) + 0.6, height=2.9)
        heights = [_draw_coordinate(axes, place, coordinate) for place, coordinate in enumerate(coordinates)]
        # If the worst score is far away, a logarithmic scale separates the good ones.
        last = Coordinate(score, list(scores), logarithmic=min(scores) > 0 and max(scores) > _FAR * min(scores))
        heights.append(_draw_coordinate(axes, len(coordinates), last, flipped=smaller_is_better, side="right"))
        axes.add_collection(_lines(heights, order))
        best = order[-1]
        axes.plot(range(len(heights)), [column[best] for column in heights], color=COLORS[1], linewidth=2, zorder=5)
        missing = [place for place, coordinate in enumerate(coordinates) if None in coordinate.values]
        _frame(axes, [*(coordinate.label for coordinate in coordinates), score], missing=missing)
    return figure


def _lines(heights: Sequence[Sequence[float]], order: Sequence[int]) -> LineCollection:
    shades = mpl.colormaps["Blues"]
    count = max(len(order) - 1, 1)
    return LineCollection(
        [[(place, column[run]) for place, column in enumerate(heights)] for run in order],
        colors=[shades(0.25 + 0.7 * rank / count) for rank in range(len(order))],
        linewidths=1.0,
        zorder=3,
    )


def _draw_coordinate(
    axes: Axes, place: int, coordinate: Coordinate, *, flipped: bool = False, side: Literal["left", "right"] = "left"
) -> list[float]:
    """Draw an axis with its ticks; returns the height of each run's value, in [0, 1]."""
    axes.plot([place, place], [0, 1], color="#555555", linewidth=0.8, zorder=2)
    ticks, heights = _choices(coordinate) if coordinate.categorical else _numbers(coordinate, flipped)
    outward = -1 if side == "left" else 1
    for height, text in ticks:
        axes.plot([place + 0.03 * outward, place], [height, height], color="#555555", linewidth=0.8, zorder=2)
        anchor: Literal["left", "right"] = "right" if side == "left" else "left"
        label = axes.text(place + 0.05 * outward, height, text, ha=anchor, va="center", fontsize=7, zorder=6)
        # Readable even if lines cross it.
        label.set_bbox({"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.6})
    return heights


def _choices(coordinate: Coordinate) -> tuple[list[tuple[float, str]], list[float]]:
    names = sorted({str(value) for value in coordinate.values if value is not None}, key=_natural)
    step = 1 / len(names)
    middle = {name: (place + 0.5) * step for place, name in enumerate(names)}
    members: dict[str, list[int]] = {name: [] for name in names}
    for run, value in enumerate(coordinate.values):
        if value is not None:
            members[str(value)].append(run)
    heights = [_BELOW] * len(coordinate.values)
    for name, runs in members.items():
        for rank, run in enumerate(runs):
            # Spread, so that lines of one choice can be distinguished.
            offset = (rank + 0.5) / len(runs) - 0.5
            heights[run] = middle[name] + _SPREAD * step * offset
    return [(middle[name], name) for name in names], heights


def _numbers(coordinate: Coordinate, flipped: bool) -> tuple[list[tuple[float, str]], list[float]]:
    values = [float(value) for value in coordinate.values if value is not None]
    logarithmic = coordinate.logarithmic and min(values, default=0) > 0
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if low == high:
        low, high = (low / 2, high * 2) if logarithmic else (low - 0.5, high + 0.5)

    def height(value: float) -> float:
        ends = (math.log(low), math.log(value), math.log(high)) if logarithmic else (low, value, high)
        share = (ends[1] - ends[0]) / (ends[2] - ends[0])
        return 1 - share if flipped else share

    ticks = [tick for tick in _ticks(low, high, logarithmic) if low <= tick <= high]
    heights = [_BELOW if value is None else height(float(value)) for value in coordinate.values]
    return [(height(tick), f"{tick:.4g}") for tick in ticks], heights


def _ticks(low: float, high: float, logarithmic: bool) -> list[float]:
    if logarithmic and high / low > 30:
        return [float(tick) for tick in LogLocator(base=10).tick_values(low, high)]
    if logarithmic:
        return [float(tick) for tick in LogLocator(base=10, subs=(1.0, 2.0, 5.0)).tick_values(low, high)]
    return [float(tick) for tick in MaxNLocator(5).tick_values(low, high)]


def _frame(axes: Axes, labels: Sequence[str], *, missing: Sequence[int]) -> None:
    for place in missing:
        axes.plot([place], [_BELOW], marker="o", color="#999999", markersize=3, zorder=4)
        axes.text(place - 0.05, _BELOW, "not used", ha="right", va="center", fontsize=7, color="#777777", zorder=6)
    axes.set_xlim(-0.55, len(labels) - 0.65)
    axes.set_ylim(_BELOW - 0.06 if missing else -0.04, 1.04)
    axes.set_xticks(range(len(labels)), labels)
    axes.xaxis.tick_top()
    axes.tick_params(axis="x", length=0, labelsize=8)
    axes.set_yticks([])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _natural(name: str) -> tuple[bool, float, str]:
    """A sort key: numbers by size, then texts."""
    try:
        return (False, float(name), name)
    except ValueError:
        return (True, 0.0, name)
