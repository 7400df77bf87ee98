"""Loss curves of language models."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lightning_losses.plots.style import COLORS, LINE_STYLES, new_figure, paper_style

_PANELS = {"train/loss/ce": "training", "val/loss": "validation"}


def language_model_curves(histories: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """Cross-entropy per byte on training and on validation text, a line a network.

    Args:
        histories: by the network's label, the values after each epoch of ``val/loss`` and, if the objective has a term
            of that name, of ``train/loss/ce``.
    """
    with paper_style():
        figure, axes = new_figure(columns=2, width=3.1, height=2.5, share_y=True)
        for axis, (name, title) in zip(axes, _PANELS.items(), strict=True):
            for order, (label, history) in enumerate(histories.items()):
                values = history.get(name, ())
                axis.plot(
                    range(1, len(values) + 1),
                    values,
                    label=label,
                    color=COLORS[order % len(COLORS)],
                    linestyle=LINE_STYLES[order % len(LINE_STYLES)],
                    # A line through one point is invisible.
                    marker="o" if len(values) == 1 else None,
                    markersize=3,
                )
            axis.set_title(title)
            axis.set_xlabel("epoch")
            axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
            axis.grid(axis="x", visible=False)
        axes[0].set_ylabel("cross-entropy (nats per byte)")
        axes[1].legend()
    return figure
