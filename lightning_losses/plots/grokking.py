"""Curves over logarithmic steps: training and test, shares, and values of many layers."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from lightning_losses.plots.style import COLORS, LINE_STYLES, new_figure, paper_style

Points = tuple[Sequence[float], Sequence[float]]


class Curve(NamedTuple):
    """One curve of a grokking figure; training curves are thin, test curves bold."""

    label: str
    steps: Sequence[float]
    values: Sequence[float]
    role: Literal["train", "test"] = "test"


def grokking_curves(
    curves: Sequence[Curve], *, measure: str = "accuracy", delay: Any = None, title: str = ""
) -> Figure:
    """Training and test curves of one run over logarithmic steps, with the delay between their thresholds.

    Args:
        curves: of one run.
        measure: "accuracy", drawn in percent, or "loss", on a logarithmic scale.
        delay: an object with `memorised` and `generalised`, steps or NaN; None marks nothing.
        title: of the panel.
    """
    with paper_style():
        figure, (axis,) = new_figure()
        draw_grokking(axis, curves, measure=measure)
        if delay is not None:
            _mark_delay(axis, delay)
        axis.set_title(title)
        axis.legend(loc="best")
    return figure


def grokking_panels(panels: Mapping[str, Sequence[Curve]], *, measure: str = "accuracy") -> Figure:
    """A panel a run, with a common scale: what the runs of a comparison do differently.

    Args:
        panels: the curves of each run, by its label.
        measure: "accuracy" or "loss".
    """
    columns = min(len(panels), 3)
    rows = math.ceil(len(panels) / columns)
    with paper_style():
        figure, axes = new_figure(columns, rows, width=2.4, height=2.1)
        for axis, (label, curves) in zip(axes, panels.items(), strict=False):
            draw_grokking(axis, curves, measure=measure)
            axis.set_title(label)
        for axis in axes[len(panels) :]:
            axis.set_visible(False)
        shown = axes[: len(panels)]
        low = min(axis.get_xlim()[0] for axis in shown)
        high = max(axis.get_xlim()[1] for axis in shown)
        for number, axis in enumerate(shown):
            axis.set_xlim(low, high)
            if number % columns:
                axis.set_ylabel("")
            if number + columns < len(shown):
                axis.set_xlabel("")
        shown[0].legend(loc="best")
    return figure


def draw_grokking(axis: Axes, curves: Sequence[Curve], *, measure: str = "accuracy") -> None:
    """Draw curves into a panel over logarithmic steps."""
    tests = [curve for curve in curves if curve.role == "test"]
    for curve in curves:
        order = tests.index(curve) if curve in tests else 0
        train = curve.role == "train"
        # Step 0 has no logarithm: what was there before training is drawn at 1/2.
        steps = [step if step > 0 else 0.5 for step in curve.steps]
        values = [100 * value for value in curve.values] if measure == "accuracy" else curve.values
        axis.plot(
            steps,
            values,
            label=curve.label,
            color="#777777" if train else COLORS[(order + 1) % len(COLORS)],
            linestyle="-" if train or len(tests) == 1 else LINE_STYLES[order % len(LINE_STYLES)],
            linewidth=1.0 if train else 1.8,
        )
    axis.set_xlabel("optimizer step")
    log_steps(axis)
    if measure == "accuracy":
        axis.set_ylabel("accuracy (%)")
        axis.set_ylim(-3, 103)
    else:
        axis.set_ylabel(measure)
        axis.set_yscale("log")


def fraction_curves(curves: Mapping[str, Points], *, ylabel: str) -> Figure:
    """Shares in percent over steps.

    Args:
        curves: (steps, shares in [0, 1]) by label.
        ylabel: what the shares are of.
    """
    with paper_style():
        figure, (axis,) = new_figure()
        for order, (label, (steps, values)) in enumerate(curves.items()):
            _line(axis, steps, [100 * value for value in values], label, order)
        axis.set_ylim(-3, 103)
        axis.set_ylabel(ylabel)
        axis.set_xlabel("optimizer step")
        axis.legend(loc="best")
    return figure


def value_curves(
    curves: Mapping[str, Points],
    *,
    ylabel: str,
    highlight: str | None = None,
    log_y: bool = False,
    lines: Mapping[str, float] | None = None,
) -> Figure:
    """Values over steps, one of them drawn bold.

    Args:
        curves: (steps, values) by label.
        ylabel: what the values are.
        highlight: the label to draw bold and black.
        log_y: whether the values are positive, and go on a logarithmic scale.
        lines: horizontal lines by label.
    """
    with paper_style():
        figure, (axis,) = new_figure(width=4.2)
        for order, (label, (steps, values)) in enumerate(curves.items()):
            if label == highlight:
                axis.plot(steps, values, label=label, color="black", linewidth=2.0)
            else:
                _line(axis, steps, values, label, order)
        for label, value in (lines or {}).items():
            axis.axhline(value, color="#777777", linewidth=0.9, linestyle="--")
            axis.annotate(label, (0.01, value), xycoords=("axes fraction", "data"), xytext=(0, 2),
                          textcoords="offset points", fontsize=8, color="#555555")  # fmt: skip
        if log_y:
            axis.set_yscale("log")
        axis.set_ylabel(ylabel)
        axis.set_xlabel("optimizer step")
        if len(curves) > 1:
            # Names of layers are long: beside the panel they hide nothing.
            figure.legend(loc="outside right upper", fontsize=7)
    return figure


def log_steps(axis: Axes) -> None:
    """A logarithmic axis of steps with plain numbers; 1/2 stands for step 0."""
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter(FuncFormatter(lambda step, _: "0" if step < 1 else f"{step:,.0f}"))


def _line(axis: Axes, steps: Sequence[float], values: Sequence[float], label: str, order: int) -> None:
    axis.plot(steps, values, label=label, color=COLORS[order % len(COLORS)],
              linestyle=LINE_STYLES[order // len(COLORS) % len(LINE_STYLES)],
              marker="o" if len(values) == 1 else None, markersize=3)  # fmt: skip


def _mark_delay(axis: Axes, delay: Any) -> None:
    events = {"memorised": delay.memorised, "generalised": delay.generalised}
    for name, step in events.items():
        if not math.isnan(step):
            axis.axvline(max(step, 0.5), color="#999999", linewidth=0.8, linestyle=":")
            axis.annotate(
                f"{name}\n{step:,.0f}",
                (max(step, 0.5), 0.02),
                xycoords=("data", "axes fraction"),
                xytext=(-2, 2),
                textcoords="offset points",
                ha="right",
                fontsize=7,
                color="#555555",
            )
    if math.isnan(delay.generalised):
        axis.annotate("not generalised", (0.98, 0.5), xycoords="axes fraction", ha="right", fontsize=8, color="#555555")
