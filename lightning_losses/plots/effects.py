"""Effects relative to a baseline with their intervals, one row per run, the best on top."""

import math
from collections.abc import Collection, Mapping
from textwrap import fill
from typing import Any, Literal

from matplotlib.figure import Figure

from lightning_losses.plots.seed_intervals import Interval, bars
from lightning_losses.plots.style import COLORS, new_figure, paper_style

# Characters of the label's lines, which fit below an axis that long names of runs leave narrow.
_LINE = 36


def effects(
    runs: Mapping[str, Interval],
    *,
    label: str,
    note: str = "",
    better: Literal["higher", "lower"] = "higher",
    digits: int = 1,
    significant: Collection[str] | None = None,
) -> Figure:
    """Draw the sorted differences from a baseline, with a line at 0; significantly better and worse ones are coloured.

    Args:
        runs: by label, the mean difference and the ends of its interval, in the units of the axis. Ends of NaN draw no
            bar; a mean of NaN is left out.
        label: the label of the axis, with its unit.
        note: an explanation of the marks and bars, above them.
        better: which differences are better.
        digits: the decimals of the numbers beside the bars.
        significant: the runs whose differences a test found, which may be stricter than their intervals; None: those
            whose intervals leave out 0.

    Returns:
        A figure outside pyplot's registry.

    Raises:
        ValueError: no finite mean.

    Example:
        >>> figure = effects({"kd": (8.0, 7.0, 9.0)}, label="accuracy against ce, points")
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['+8.0 ± 1.0']
    """
    drawn = sorted(
        ((name, one) for name, one in runs.items() if not math.isnan(one[0])),
        key=lambda pair: pair[1][0],
        reverse=better == "higher",
    )
    if not drawn:
        raise ValueError("effects: no run with a finite mean came; give at least one.")
    above, below = (COLORS[0], COLORS[1]) if better == "higher" else (COLORS[1], COLORS[0])
    label = fill(label, _LINE)
    with paper_style():
        height = 0.27 * len(drawn) + 0.85 + 0.15 * label.count("\n")
        figure, (axis,) = new_figure(width=3.8, height=height)
        for row, (name, interval) in enumerate(drawn):
            mean, low, high = interval
            sure = low > 0 or high < 0 if significant is None else name in significant
            color = "#777777" if not sure else above if mean > 0 else below
            axis.errorbar(
                [mean], [row], xerr=[[side[0]] for side in bars([interval])], fmt="o", color=color, markersize=4,
                elinewidth=1.1, capsize=2,
            )  # fmt: skip
            half = "" if math.isnan(low) else f" ± {(high - low) / 2:.{digits}f}"
            # In a separate column at the right, beyond all bars.
            beside: dict[str, Any] = {
                "transform": axis.get_yaxis_transform(),
                "va": "center",
                "fontsize": 8,
                "color": color,
            }
            axis.text(1.02, row, f"{mean:+.{digits}f}{half}".replace("-", "\N{MINUS SIGN}"), **beside)
        axis.axvline(0, color="#000000", linewidth=0.8, zorder=0)
        axis.set_yticks(range(len(drawn)), [name for name, _ in drawn])
        axis.set_ylim(len(drawn) - 0.4, -0.6)
        axis.set_xlabel(label)
        axis.set_title(note, fontsize=8, fontweight="normal")
        axis.grid(visible=False, axis="y")
    return figure
