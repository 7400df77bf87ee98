"""What decoding changes: the loss with neighbours, and the surprise of what is drawn."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_losses.plots.seed_intervals import Interval, bars
from lightning_losses.plots.style import COLORS, new_figure, paper_style

_MARKERS = ("o", "D", "s", "^")


def decoding_figure(
    by_weight: Mapping[float, Interval],
    by_target: Mapping[str, Mapping[float, Interval]],
    levels: Mapping[str, float],
) -> Figure:
    """Two panels: the loss that neighbours change, by their weight; the surprise of what is drawn, by its target.

    Args:
        by_weight: by the neighbours' weight, the difference to the network alone, in nats per byte, with the ends of
            its interval.
        by_target: by the decoding's label and the target in bits, the mean surprise with the ends of its interval.
        levels: surprises without a target, drawn as horizontal lines, by their label; the first four have dashes of
            their own.

    Example:
        >>> one = (0.5, 0.4, 0.6)
        >>> decoding_figure({0.25: one}, {"mirostat": {1.0: one}}, {"sampling": 2.0}).axes[1].get_xlabel()
        'target (bits per byte)'
    """
    with paper_style():
        figure, (loss, surprise) = new_figure(columns=2, width=3.2, height=2.6)
        loss.axhline(0.0, color=COLORS[-1], linewidth=0.8)
        _marks(loss, by_weight, 0, None)
        loss.set_xlabel("weight of the neighbours")
        loss.set_ylabel("difference (nats per byte)")
        targets = [target for numbers in by_target.values() for target in numbers]
        if targets:
            ends = [min(targets), max(targets)]
            surprise.plot(ends, ends, color=COLORS[-1], linewidth=0.8, zorder=1, label="target")
        for order, (label, numbers) in enumerate(by_target.items()):
            _marks(surprise, numbers, order, label)
        for order, (label, level) in enumerate(levels.items()):
            dashes = ((0, (4, 3)), (0, (1, 2)), (0, (6, 2, 1, 2)), "-")[order % 4]
            surprise.axhline(level, color="#666666", linestyle=dashes, linewidth=0.8, zorder=0, label=label)
        surprise.set_xlabel("target (bits per byte)")
        surprise.set_ylabel("surprise (bits per byte)")
        surprise.legend()
    return figure


def _marks(axis: Axes, numbers: Mapping[float, Interval], order: int, label: str | None) -> None:
    """Means with their intervals over a number."""
    intervals: Sequence[Interval] = list(numbers.values())
    axis.errorbar(
        list(numbers),
        [mean for mean, _, _ in intervals],
        yerr=bars(intervals),
        fmt=_MARKERS[order % len(_MARKERS)],
        color=COLORS[order % len(COLORS)],
        markersize=4,
        elinewidth=0.9,
        label=label,
    )
