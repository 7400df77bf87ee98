"""The loss between checkpoints, and against the learning rate."""

import math
from collections.abc import Mapping, Sequence

from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from lightning_losses.diagnostics.learning_rate_sensitivity import learning_rate_sensitivity
from lightning_losses.plots.style import COLORS, LINE_STYLES, new_figure, paper_style


def connectivity_panels(steps: Sequence[float], barriers: Sequence[float], lines: Sequence[Sequence[float]]) -> Figure:
    """Barriers over steps beside the loss along each straight line, from light to dark as training goes on.

    Args:
        steps: of the measurements.
        barriers: at the steps, at least 0.
        lines: the losses along the line of each measurement, at equal distances.
    """
    with paper_style():
        figure, (over_steps, along) = new_figure(2, width=3.2, height=2.5)
        over_steps.plot(steps, barriers, color=COLORS[0], marker="o", markersize=3)
        over_steps.set_ylim(bottom=min(0.0, -0.03 * max(barriers)))
        over_steps.set_xlabel("optimizer step")
        over_steps.set_ylabel("loss barrier")
        shades = ScalarMappable(Normalize(min(steps) - 0.3 * (max(steps) - min(steps)) - 1, max(steps)), "Blues")
        for step, losses in zip(steps, lines, strict=True):
            positions = [place / (len(losses) - 1) for place in range(len(losses))]
            along.plot(positions, losses, color=shades.to_rgba(step), linewidth=1.2)  # type: ignore[arg-type]
        if min(min(losses) for losses in lines) > 0:
            along.set_yscale("log")
        along.set_xlabel("from earlier (0) to present weights (1)")
        along.set_ylabel("loss")
        bar = figure.colorbar(shades, ax=along, label="optimizer step")
        bar.ax.set_ylim(min(steps), max(steps) if max(steps) > min(steps) else None)
    return figure


def learning_rate_curves(runs: Mapping[str, Mapping[float, float]], initial_loss: float) -> Figure:
    """The final loss against the learning rate, a line a model, with its sensitivity in the legend.

    It is drawn from the results of a sweep: runs that differ in the learning rate alone.

    Args:
        runs: the final loss by learning rate, by model; NaN and infinity where a run diverged.
        initial_loss: of the untrained network: where runs that diverged are drawn, as crosses.

    Raises:
        ValueError: no models, or one without runs.

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
    with paper_style():
        figure, (axis,) = new_figure(width=4.2)
        for order, (label, finals) in enumerate(runs.items()):
            sensitivity = learning_rate_sensitivity(list(finals.values()), initial_loss)
            rates = sorted(finals)
            reached = [min(finals[rate], initial_loss) if math.isfinite(finals[rate]) else initial_loss
                       for rate in rates]  # fmt: skip
            color = COLORS[order % len(COLORS)]
            axis.plot(rates, reached, color=color, linestyle=LINE_STYLES[order % len(LINE_STYLES)],
                      label=f"{label}: sensitivity {sensitivity:.3g}")  # fmt: skip
            for rate, loss in zip(rates, reached, strict=True):
                diverged = not finals[rate] < initial_loss
                axis.plot(rate, loss, color=color, marker="x" if diverged else "o", markersize=6 if diverged else 3)
        axis.axhline(initial_loss, color="#777777", linewidth=0.9, linestyle="--")
        axis.annotate("untrained", (0.01, initial_loss), xycoords=("axes fraction", "data"), xytext=(0, -9),
                      textcoords="offset points", fontsize=8, color="#555555")  # fmt: skip
        axis.set_xscale("log")
        axis.set_xlabel("learning rate")
        axis.set_ylabel("final loss")
        axis.legend(loc="best", fontsize=7)
    return figure
