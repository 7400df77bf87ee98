"""The loss between checkpoints, and against the learning rate."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from lightning_losses.diagnostics.learning_rate_sensitivity import learning_rate_sensitivity
from lightning_losses.plots.style import COLORS, LINE_STYLES, new_figure, paper_style


def connectivity_panels(steps: Sequence[float], barriers: Sequence[float], lines: Sequence[Sequence[float]]) -> Figure:
    """Barriers over steps, and the loss along each straight line, from light to dark during training.

    Args:
        steps: the steps of the measurements.
        barriers: at the steps, at least 0.
        lines: the losses along the line of each measurement, at equally spaced points.
    """
    with paper_style():
        figure, (over_steps, along) = new_figure(2, width=3.2, height=2.5)
        over_steps.plot(steps, barriers, color=COLORS[0], marker="o", markersize=3)
        highest = max((barrier for barrier in barriers if math.isfinite(barrier)), default=0.0)
        over_steps.set_ylim(bottom=min(0.0, -0.03 * highest))
        over_steps.set_xlabel("optimizer step")
        over_steps.set_ylabel("loss barrier")
        shade = _shade_of_steps(figure, along, steps)
        for step, losses in zip(steps, lines, strict=True):
            positions = [place / (len(losses) - 1) for place in range(len(losses))]
            along.plot(positions, losses, color=shade(step), linewidth=1.2)
        if min(min(losses) for losses in lines) > 0:
            along.set_yscale("log")
        along.set_xlabel("from earlier (0) to present weights (1)")
        along.set_ylabel("loss")
    return figure


def _shade_of_steps(figure: Figure, axis: Axes, steps: Sequence[float]) -> Callable[[float], Any]:
    """The colour of a step, from light to dark; a colour bar explains it."""
    shades = ScalarMappable(Normalize(min(steps) - 0.3 * (max(steps) - min(steps)) - 1, max(steps)), "Blues")
    bar = figure.colorbar(shades, ax=axis, label="optimizer step")
    bar.ax.set_ylim(min(steps), max(steps) if max(steps) > min(steps) else None)
    return shades.to_rgba  # type: ignore[return-value]


def learning_rate_curves(
    runs: Mapping[str, Mapping[float, float | Sequence[float]]],
    initial_loss: float | Mapping[str, Sequence[float]],
) -> Figure:
    """The final loss against the learning rate, one line per model, with its sensitivity in the legend.

    It shows the results of a sweep, runs that differ only in the learning rate. With several seeds the line is the
    mean, and a band spans from the lowest to the highest.

    Args:
        runs: by model and learning rate, the final loss, or one loss per seed; NaN or infinity for a diverged run.
        initial_loss: the untrained network's loss, or one by model and seed. Runs that end above it are drawn at it,
            with a cross. It is drawn as a line, or as a note if no loss is near it.

    Raises:
        ValueError: no models, or one without runs; numbers of seeds that differ within a model.

    Source:
        Wortsman et al., 2023, "Small-scale Proxies for Large-scale Transformer Training Instabilities",
        arXiv:2309.14322.

    Example:
        >>> figure = learning_rate_curves({"plain": {1e-3: 0.5, 1e-2: 0.4, 1e-1: math.inf}}, initial_loss=2.3)
        >>> figure.axes[0].get_xscale()
        'log'
    """
    if not runs:
        raise ValueError("learning_rate_curves: no models came; give the final losses of at least one.")
    untrained: list[float] = []
    ends: list[float] = []
    with paper_style():
        figure, (axis,) = new_figure(width=4.2)
        for order, (label, finals) in enumerate(runs.items()):
            rates = sorted(finals)
            seeds = [[final] if isinstance(final, int | float) else list(final) for final in finals.values()]
            if len({len(losses) for losses in seeds}) != 1:
                raise ValueError(
                    f"learning_rate_curves: {label} has {', '.join(str(len(losses)) for losses in seeds)} losses at "
                    "its learning rates; give at least one rate, and as many seeds at each."
                )
            count = len(seeds[0])
            starts = list(initial_loss[label]) if isinstance(initial_loss, Mapping) else [initial_loss] * count
            untrained += starts
            sensitivities = [learning_rate_sensitivity(own, start)
                             for own, start in zip(zip(*seeds, strict=True), starts, strict=True)]  # fmt: skip
            by_rate = dict(zip(finals, seeds, strict=True))
            reached = [
                [min(loss, start) if math.isfinite(loss) else start
                 for loss, start in zip(by_rate[rate], starts, strict=True)]
                for rate in rates
            ]  # fmt: skip
            means = [sum(losses) / count for losses in reached]
            color = COLORS[order % len(COLORS)]
            axis.plot(rates, means, color=color, linestyle=LINE_STYLES[order % len(LINE_STYLES)],
                      label=f"{label}: sensitivity {sum(sensitivities) / count:.3g}")  # fmt: skip
            if count > 1:
                axis.fill_between(rates, list(map(min, reached)), list(map(max, reached)), color=color, alpha=0.15,
                                  linewidth=0)  # fmt: skip
            for rate, mean in zip(rates, means, strict=True):
                diverged = any(not loss < start for loss, start in zip(by_rate[rate], starts, strict=True))
                axis.plot(rate, mean, color=color, marker="x" if diverged else "o", markersize=6 if diverged else 3)
            ends += [loss for losses in reached for loss in losses]
        level = sum(untrained) / len(untrained)
        # Too far away: an axis up to there would hide everything else.
        far = max(ends) < (min(ends) + level) / 2
        if not far:
            axis.axhline(level, color="#777777", linewidth=0.9, linestyle="--")
            axis.annotate("untrained", (0.01, level), xycoords=("axes fraction", "data"), xytext=(0, -9),
                          textcoords="offset points", fontsize=8, color="#555555")  # fmt: skip
        axis.set_xscale("log")
        axis.set_xlabel("learning rate")
        axis.set_ylabel("final loss")
        title = f"untrained: {level:.3g}" if far else None
        axis.legend(loc="best", fontsize=7, title=title, title_fontsize=7, alignment="left")
    return figure


def learning_rate_panels(
    steps: Sequence[float],
    sensitivities: Sequence[float],
    multiples: Sequence[float],
    losses: Sequence[Sequence[float]],
    before: Sequence[float],
) -> Figure:
    """Sensitivities over steps, and the effect of multiples of the learning rate, from light to dark during training.

    Args:
        steps: the steps of the measurements.
        sensitivities: at the steps.
        multiples: the multiples of the learning rate, rising.
        losses: at every step, the loss of each multiple; NaN or infinity if it diverged.
        before: at every step, the common initial loss. The panel shows each multiple's gain as a share of the best
            gain, which has a dot; a multiple without gain is a cross at 0.
    """
    with paper_style():
        figure, (over_steps, along) = new_figure(2, width=3.2, height=2.5)
        over_steps.plot(steps, sensitivities, color=COLORS[0], marker="o", markersize=3)
        if positive := [sensitivity for sensitivity in sensitivities if sensitivity > 0]:
            # They fall by orders of magnitude during training.
            over_steps.set_yscale("symlog", linthresh=min(positive))
        over_steps.set_xlabel("optimizer step")
        over_steps.set_ylabel("sensitivity to the learning rate")
        shade = _shade_of_steps(figure, along, steps)
        for step, own, start in zip(steps, losses, before, strict=True):
            color = shade(step)
            gains = [max(start - loss, 0.0) if math.isfinite(loss) else 0.0 for loss in own]
            shares = [gain / (max(gains) or 1.0) for gain in gains]
            along.plot(multiples, shares, color=color, linewidth=1.2)
            if max(gains) > 0:
                along.plot(multiples[shares.index(1.0)], 1.0, "o", color=color, markersize=4)
            worse = [multiple for multiple, gain in zip(multiples, gains, strict=True) if gain == 0]
            along.plot(worse, [0.0] * len(worse), "x", color=color, markersize=5)
        along.axvline(1, color="#777777", linewidth=0.9, linestyle="--")
        along.set_xscale("log")
        along.set_xticks(multiples, [f"{multiple:g}" for multiple in multiples])
        along.minorticks_off()
        along.set_xlabel("multiple of the learning rate")
        along.set_ylabel("share of the best trial's gain")
    return figure
