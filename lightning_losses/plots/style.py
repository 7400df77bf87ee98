"""One style for every figure: a column's width, little ink, colours for colour-blind readers."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Figure

from lightning_losses.environment.atomic_files import replacing

# Okabe and Ito's palette without yellow, which is hard to see on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# A second cue besides colour, for greyscale print.
LINE_STYLES = ("-", "--", "-.", ":")

_SETTINGS: Any = {
    "font.family": "sans-serif",
    # Part of matplotlib, so that figures look the same everywhere.
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(color=COLORS),
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.5,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "lines.linewidth": 1.4,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "figure.dpi": 100,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 300,
    # TrueType, not outlines or Type 3: text in a PDF stays text, as journals require.
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    "svg.fonttype": "none",
}


@contextmanager
def paper_style() -> Iterator[None]:
    """Within this context, figures are drawn in the library's style.

    Example:
        >>> with paper_style():
        ...     mpl.rcParams["savefig.dpi"]
        300.0
    """
    with mpl.rc_context(_SETTINGS):
        yield


def new_figure(
    columns: int = 1, rows: int = 1, *, width: float = 3.4, height: float = 2.6, share_y: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure outside pyplot's registry, and its axes row by row; width and height, in inches, are per panel."""
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharey=share_y)
    return figure, [axis for row in axes for axis in row]


def draw_line(
    axis: Axes, places: Sequence[float], values: Sequence[float], label: str, order: int, dash: int | None = None
) -> None:
    """Draw a line with the colour and dashes of its order in the panel, or with other dashes."""
    axis.plot(
        places,
        values,
        label=label,
        color=COLORS[order % len(COLORS)],
        linestyle=LINE_STYLES[(order if dash is None else dash) % len(LINE_STYLES)],
        # A line with one point would be invisible.
        marker="o" if len(values) == 1 else None,
        markersize=3,
    )


def main_range(values: Sequence[float]) -> tuple[float, float]:
    """The range of an axis; it omits up to a tenth of the values if they would stretch it by half.

    Example:
        >>> main_range([*range(10), 50])
        (0, 9)
        >>> main_range([0, 5, 50])
        (0, 50)
    """
    ordered = sorted(values)
    for _ in range(len(ordered) // 10):
        whole = ordered[-1] - ordered[0]
        without = {1: ordered[-2] - ordered[0], 0: ordered[-1] - ordered[1]}
        end = min(without, key=lambda place: without[place])
        if whole <= 1.5 * without[end]:
            break
        ordered = ordered[:-1] if end else ordered[1:]
    return ordered[0], ordered[-1]


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure atomically; the suffix (.png, .pdf, .svg) determines the format."""
    path = Path(path)
    with replacing(path) as partial, paper_style():
        figure.savefig(partial, format=path.suffix.removeprefix("."))
    return path
