"""What a model forgets and what it keeps, over the epochs of unlearning."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lightning_losses.plots.style import COLORS, draw_line, new_figure, paper_style


def forgetting_curves(
    curves: Mapping[str, Mapping[str, Sequence[float]]],
    before: Mapping[str, float],
    without: Mapping[str, float] | None = None,
    *,
    most: float | None = None,
) -> Figure:
    """Cross-entropy of the text to forget and of other text after each epoch, a line an objective.

    Args:
        curves: by the objective's label, ``val/forget_nll`` and ``val/retain_nll`` after each epoch.
        before: the same two numbers of the model before, where every line begins.
        without: those of a model that never saw the text to forget, as a dashed line.
        most: what the axes end at, with the last value of a line that leaves them written there; None: at the largest
            number.

    Returns:
        A figure outside pyplot's registry.

    Example:
        >>> names = ("val/forget_nll", "val/retain_nll")
        >>> figure = forgetting_curves({"npo": dict.fromkeys(names, [2.0, 3.0])}, dict.fromkeys(names, 1.0))
        >>> figure.axes[0].get_xlabel()
        'epoch of unlearning'
    """
    titles = {"val/forget_nll": "text to forget", "val/retain_nll": "other text"}
    with paper_style():
        figure, axes = new_figure(columns=2, width=3.1, height=2.5, share_y=True)
        for axis, (name, title) in zip(axes, titles.items(), strict=True):
            for order, (label, history) in enumerate(curves.items()):
                values = [before[name], *history[name]]
                draw_line(axis, range(len(values)), values, label, order)
            if without is not None:
                axis.axhline(without[name], color="#555555", linestyle=(0, (1, 2)), linewidth=0.9, label="never seen")
            axis.set_title(title)
            axis.set_xlabel("epoch of unlearning")
            axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axes[0].set_ylabel("cross-entropy (nats per byte)")
        if most is not None and axes[0].get_ylim()[1] > most:
            axes[0].set_ylim(top=most)
            for axis, name in zip(axes, titles, strict=True):
                _write_what_leaves(axis, {label: history[name][-1] for label, history in curves.items()}, most)
        # Where it hides no line.
        handles, labels = axes[1].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=min(len(labels), 4))
    return figure


def _write_what_leaves(axis: Axes, lines: Mapping[str, float], most: float) -> None:
    """The last value of each line that is above the axis, in the upper right corner, from the highest down."""
    leaving = [label for label in lines if lines[label] > most]
    for place, label in enumerate(sorted(leaving, key=lambda label: -lines[label])):
        axis.annotate(
            f"{label} ends at {lines[label]:.3g} \N{UPWARDS ARROW}",
            (0.99, 0.97 - 0.1 * place),
            xycoords="axes fraction",
            ha="right",
            va="top",
            fontsize=7,
            color=COLORS[list(lines).index(label) % len(COLORS)],
            # The lines of others may cross it.
            bbox={"facecolor": "#FFFFFF", "edgecolor": "none", "pad": 0.5},
        )
