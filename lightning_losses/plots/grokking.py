"""Curves over logarithmic steps: training and test, shares, and values of many layers."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogFormatter

from lightning_losses.plots.style import COLORS, LINE_STYLES, draw_line, new_figure, paper_style

_PLAIN = FuncFormatter(lambda value, _: f"{value:g}")
Points = tuple[Sequence[float], Sequence[float]]


class Curve(NamedTuple):
    """One curve of a grokking figure; training curves are thin, test curves bold."""

    label: str
    steps: Sequence[float]
    values: Sequence[float]
    role: Literal["train", "test"] = "test"


def grokking_curves(curves: Sequence[Curve], *, measure: str = "accuracy", delay: Any = None) -> Figure:
    """Training and test curves of one run over logarithmic steps, with the delay between their thresholds.

    Args:
        curves: of one run.
        measure: "accuracy", drawn in percent, or "loss", on a logarithmic scale.
        delay: an object with `memorised` and `generalised`, steps or NaN; None marks nothing.
    """
    with paper_style():
        figure, (axis,) = new_figure()
        draw_grokking(axis, curves, measure=measure)
        if delay is not None:
            _mark_delay(axis, delay)
        axis.legend(loc="best")
    return figure


def comparison(
    panels: Mapping[str, Sequence[Curve]],
    collapse: Mapping[str, Mapping[str, Curve]] | None = None,
    *,
    measure: str = "accuracy",
) -> Figure:
    """One column per run, on common scales: training and test above, the share of collapsed softmaxes below.

    Args:
        panels: the curves of each run, by its label.
        collapse: the shares of collapsed softmaxes by run and precision; without them there is no lower row.
        measure: "accuracy" or "loss".
    """
    below = dict(collapse or {})
    with paper_style():
        figure, axes = new_figure(len(panels), 2 if below else 1, width=2.2, height=2.0)
        upper, lower = axes[: len(panels)], axes[len(panels) :]
        for axis, (label, curves) in zip(upper, panels.items(), strict=True):
            draw_grokking(axis, curves, measure=measure)
            axis.set_title(label)
        for axis, label in zip(lower, panels, strict=bool(lower)):
            _draw_collapse(axis, below.get(label, {}))
        limits = [axis.get_xlim() for axis in upper]
        heights = [axis.get_ylim() for axis in upper]
        for axis in axes:
            axis.set_xlim(min(low for low, _ in limits), max(high for _, high in limits))
            axis.set_xlabel("optimizer step" if axis in (lower or upper) else "")
        for axis in upper:
            axis.set_ylim(min(low for low, _ in heights), max(high for _, high in heights))
        for number, axis in enumerate(axes):
            if number % len(panels):
                axis.set_ylabel("")
                axis.tick_params(labelleft=False)
        upper[0].legend(loc="best")
        for above, axis in zip(upper, lower, strict=bool(lower)):
            axis.set_visible(bool(axis.lines))
            if axis.lines:
                axis.legend(loc="best", fontsize=7)
            else:
                above.set_xlabel("optimizer step")
    return figure


def overlay(panels: Mapping[str, Sequence[Curve]], *, measure: str = "accuracy") -> Figure:
    """The training curves and the test curves of many runs, one line per run, for more runs than columns can show.

    Args:
        panels: the curves of each run, by its label.
        measure: "accuracy" or "loss".
    """
    with paper_style():
        figure, (train, test) = new_figure(2, width=3.2, height=2.8)
        for order, (label, curves) in enumerate(panels.items()):
            for curve in curves:
                _line(train if curve.role == "train" else test, *_points(curve, measure), label, order)
        for axis, title in ((train, "training"), (test, "test")):
            _scale(axis, measure)
            axis.set_title(title)
        test.set_ylabel("")
        handles, labels = test.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right upper", fontsize=8)
    return figure


def _draw_collapse(axis: Axes, curves: Mapping[str, Curve]) -> None:
    for order, curve in enumerate(curves.values()):
        draw_line(axis, *_points(curve, "accuracy"), curve.label, order + 2, dash=order)
    _scale(axis, "accuracy")
    axis.set_ylabel("collapsed rows (%)")


def draw_grokking(axis: Axes, curves: Sequence[Curve], *, measure: str = "accuracy") -> None:
    """Draw curves into a panel over logarithmic steps."""
    tests = [curve for curve in curves if curve.role == "test"]
    for curve in curves:
        order = tests.index(curve) if curve in tests else 0
        train = curve.role == "train"
        axis.plot(
            *_points(curve, measure),
            label=curve.label,
            color="#777777" if train else COLORS[(order + 1) % len(COLORS)],
            linestyle="-" if train or len(tests) == 1 else LINE_STYLES[order % len(LINE_STYLES)],
            linewidth=1.0 if train else 1.8,
        )
    _scale(axis, measure)


def _points(curve: Curve, measure: str) -> Points:
    # Step 0 has no logarithm: values before training are drawn at 1/2.
    steps = [max(step, 0.5) for step in curve.steps]
    return steps, [100 * value for value in curve.values] if measure == "accuracy" else curve.values


def _scale(axis: Axes, measure: str) -> None:
    axis.set_xlabel("optimizer step")
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter(FuncFormatter(_step))
    if measure == "accuracy":
        axis.set_ylabel("accuracy (%)")
        axis.set_ylim(-3, 103)
    else:
        axis.set_ylabel(measure)
        # matplotlib draws no logarithmic axis for nothing but NaN.
        if any(math.isfinite(value) and value > 0 for line in axis.lines for value in np.asarray(line.get_ydata())):
            axis.set_yscale("log")


def _step(step: float, _: int | None = None) -> str:
    if step < 1:
        return "0"
    return f"{step:g}" if step < 1000 else f"{step / 1000:g}k"


def fraction_curves(
    curves: Mapping[str, Points], *, ylabel: str, highlight: str | None = None, marks: Mapping[float, str] | None = None
) -> Figure:
    """Shares in percent over steps, with one of them bold.

    Args:
        curves: (steps, shares in [0, 1]) by label.
        ylabel: the label of the axis.
        highlight: the label to draw bold and black.
        marks: labels of events, by step.
    """
    with paper_style():
        figure, (axis,) = new_figure(width=4.2)
        _draw_shares(axis, curves, highlight)
        for step, label in (marks or {}).items():
            axis.axvline(step, color="#999999", linewidth=0.8, linestyle=":")
            axis.annotate(label, (step, 1), xycoords=("data", "axes fraction"), xytext=(2, 1),
                          textcoords="offset points", fontsize=7, color="#555555")  # fmt: skip
        axis.set_ylabel(ylabel)
        # Outside the panel, so that it hides nothing.
        figure.legend(loc="outside right upper", fontsize=7)
    return figure


def fraction_panels(panels: Mapping[str, Mapping[str, Points]], *, ylabel: str) -> Figure:
    """Panels of shares in percent over steps, with the same lines in each.

    Args:
        panels: (steps, shares in [0, 1]) by the panel's title and the label.
        ylabel: the label of the axis.
    """
    with paper_style():
        figure, axes = new_figure(len(panels), width=2.9, height=2.4, share_y=True)
        for axis, (title, curves) in zip(axes, panels.items(), strict=True):
            _draw_shares(axis, curves)
            axis.set_title(title)
        axes[0].set_ylabel(ylabel)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right upper", fontsize=7)
    return figure


def _draw_shares(axis: Axes, curves: Mapping[str, Points], highlight: str | None = None) -> None:
    shares = {label: (steps, [100 * value for value in values]) for label, (steps, values) in curves.items()}
    _draw_values(axis, shares, highlight)
    axis.set_ylim(-3, 103)


def _draw_values(axis: Axes, curves: Mapping[str, Points], highlight: str | None) -> None:
    for order, (label, (steps, values)) in enumerate(curves.items()):
        if label == highlight:
            axis.plot(steps, values, label=label, color="black", linewidth=2.0, alpha=0.8)
        else:
            _line(axis, steps, values, label, order)
    axis.set_xlabel("optimizer step")


def value_curves(
    curves: Mapping[str, Points], *, ylabel: str, highlight: str | None = None, log_y: bool = False
) -> Figure:
    """Values over steps, with one of them bold.

    Args:
        curves: (steps, values) by label.
        ylabel: the label of the axis.
        highlight: the label to draw bold and black.
        log_y: whether to use a logarithmic scale, for positive values.
    """
    with paper_style():
        figure, (axis,) = new_figure(width=4.2)
        _draw_values(axis, curves, highlight)
        if log_y:
            axis.set_yscale("log")
            axis.yaxis.set_major_formatter(_PLAIN)
            axis.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
        axis.set_ylabel(ylabel)
        if len(curves) > 1:
            # Outside the panel, because layers have long names.
            figure.legend(loc="outside right upper", fontsize=7)
    return figure


def _line(axis: Axes, steps: Sequence[float], values: Sequence[float], label: str, order: int) -> None:
    # With many layers, the first ones are all solid.
    draw_line(axis, steps, values, label, order, dash=order // len(COLORS))


def _mark_delay(axis: Axes, delay: Any) -> None:
    events = {"memorised": delay.memorised, "generalised": delay.generalised}
    for order, (name, step) in enumerate(events.items()):
        if not math.isnan(step):
            axis.axvline(max(step, 0.5), color="#999999", linewidth=0.8, linestyle=":")
            axis.annotate(
                f"{name}\n{step:,.0f}",
                (max(step, 0.5), 0.02 + 0.14 * order),
                xycoords=("data", "axes fraction"),
                xytext=(-2, 2),
                textcoords="offset points",
                ha="right",
                fontsize=7,
                color="#555555",
            )
    if math.isnan(delay.generalised):
        axis.annotate("not generalised", (0.98, 0.5), xycoords="axes fraction", ha="right", fontsize=8, color="#555555")


def side_by_side(curves: Mapping[str, Points]) -> Figure:
    """One panel per curve, each with its own scale and its label as title.

    Args:
        curves: (steps, values) by label.
    """
    with paper_style():
        figure, axes = new_figure(len(curves), width=2.6, height=2.2)
        for order, (axis, (label, (steps, values))) in enumerate(zip(axes, curves.items(), strict=True)):
            _line(axis, steps, values, label, order)
            axis.set_ylabel(label)
            axis.set_xlabel("optimizer step")
    return figure


def spectrum_panels(
    steps: Sequence[float], values: Mapping[str, Sequence[float]], nodes: Sequence[float], weights: Sequence[float]
) -> Figure:
    """Sharpness and trace over steps and the last spectrum, each compared with 2 / learning rate.

    Args:
        steps: the steps of the measurements.
        values: "largest", "smallest", "edge", "trace" and "trace_error" at the steps.
        nodes: the last measurement's Ritz values.
        weights: their shares of the eigenvalues.
    """
    with paper_style():
        figure, (sharpness, trace, density) = new_figure(3, width=2.6, height=2.4)
        _line(sharpness, steps, values["largest"], "largest", 0)
        _line(sharpness, steps, values["smallest"], "smallest", 1)
        sharpness.plot(steps, values["edge"], color="#777777", linestyle="--", linewidth=0.9, label="2 / learning rate")
        # The edge may be far above, and the smallest eigenvalue is negative.
        sharpness.set_yscale("symlog", linthresh=max(abs(value) for value in values["largest"]) or 1.0)
        sharpness.set_ylabel("eigenvalue")
        sharpness.legend(loc="best", fontsize=7)
        edge = {"color": "#777777", "linestyle": "--", "linewidth": 0.9}
        low = [value - error for value, error in zip(values["trace"], values["trace_error"], strict=True)]
        high = [value + error for value, error in zip(values["trace"], values["trace_error"], strict=True)]
        _line(trace, steps, values["trace"], "trace", 2)
        trace.fill_between(steps, low, high, color=COLORS[2], alpha=0.25, linewidth=0)
        # Above the edge stochastic gradient descent leaves a global minimum.
        trace.plot(steps, values["edge"], **edge)  # type: ignore[arg-type]
        trace.set_yscale("symlog", linthresh=max(map(abs, [*low, *high])) or 1.0)
        trace.set_ylabel("trace ± standard error")
        for axis in (sharpness, trace):
            axis.set_xlabel("optimizer step")
        density.stem(nodes, weights, linefmt="-", markerfmt=".", basefmt=" ")
        density.set_yscale("log")
        if values["edge"][-1] <= 3 * max(nodes):
            density.axvline(values["edge"][-1], **edge)  # type: ignore[arg-type]
        else:
            # A line so far away would leave no room for the spectrum.
            density.annotate(f"2 / learning rate:\n{values['edge'][-1]:.3g} →", (0.98, 0.98), xycoords="axes fraction",
                             ha="right", va="top", fontsize=7, color="#555555")  # fmt: skip
        density.set_xlabel("eigenvalue")
        density.set_ylabel(f"share, at step {steps[-1]:,.0f}")
    return figure


def collapse_panels(steps: Sequence[float], values: Mapping[str, Sequence[float]]) -> Figure:
    """NC1, NC2, NC3 and NC4 over steps, one panel each.

    Args:
        steps: the steps of the measurements.
        values: the results of `lightning_losses.diagnostics.neural_collapse` at the steps; ``nc1/<layer>`` joins NC1.
    """
    titles = {"nc1": "NC1: within classes", "nc2": "NC2: lengths and angles", "nc3": "NC3: duality",
              "nc4": "NC4: nearest mean"}  # fmt: skip
    with paper_style():
        figure, axes = new_figure(2, 2, width=2.9, height=2.2)
        for axis, (prefix, title) in zip(axes, titles.items(), strict=True):
            members = {name: seen for name, seen in values.items() if name.startswith(prefix)}
            members.pop("nc1_per_class", None)
            for order, (name, seen) in enumerate(members.items()):
                label = name.removeprefix("nc2_").removeprefix("nc1/").replace("_", ", ")
                _line(axis, steps, seen, label if len(members) > 1 else name, order)
            axis.set_title(title)
            if prefix == "nc1":
                axis.set_yscale("log")
            if len(members) > 1:
                axis.legend(loc="best", fontsize=7)
        axes[3].set_ylim(bottom=0)
        for axis in axes[2:]:
            axis.set_xlabel("optimizer step")
    return figure


def information_panel(paths: Mapping[str, Points]) -> Figure:
    """The information plane: one path per layer, its points from light to dark during training.

    Args:
        paths: (information about the input, information about the label) at each measurement, in nats, by layer.
    """
    with paper_style():
        figure, (axis,) = new_figure(width=4.2)
        for order, (layer, (about_input, about_label)) in enumerate(paths.items()):
            color = COLORS[order % len(COLORS)]
            axis.plot(about_input, about_label, color=color, linewidth=0.7, alpha=0.5)
            last = max(len(about_input) - 1, 1)
            shades = [0.25 + 0.75 * number / last for number in range(len(about_input))]
            axis.scatter(
                about_input, about_label, color=[to_rgba(color, shade) for shade in shades], s=14, linewidths=0
            )
            axis.scatter(about_input[-1:], about_label[-1:], color=color, s=30, linewidths=0, label=layer)
        axis.set_xlabel("information about the input (nats)")
        axis.set_ylabel("information about the label (nats)")
        figure.legend(loc="outside right upper", fontsize=7)
    return figure
