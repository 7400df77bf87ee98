"""Curves over the epochs of training."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

from lightning_losses.plots.style import draw_line, new_figure, paper_style

History = Mapping[str, Sequence[float]]
_PREFIXES = ("train/loss", "train/peer_loss")


def loss_curves(histories: Mapping[str, History]) -> Figure:
    """Every unweighted part of every network's training loss, one panel per network, on a logarithmic scale.

    Args:
        histories: by the network's label, the values after each epoch under the names logged by
            `lightning_losses.modules`: ``train/loss``, the weighted sum, and ``train/loss/<term>``; for a peer,
            ``train/peer_loss`` likewise.
    """
    with paper_style():
        figure, axes = new_figure(columns=len(histories), width=2.4, height=2.4, share_y=True)
        # A part has the same colour in all panels.
        names = list(dict.fromkeys(name for history in histories.values() for name in _parts(history)))
        for axis, (label, history) in zip(axes, histories.items(), strict=True):
            for name, values in _parts(history).items():
                _draw(axis, values, name, names.index(name))
            _finish(axis, label)
            # Empty if every sample of every step was dropped.
            if _parts(history):
                axis.legend()
        if all(value > 0 for history in histories.values() for part in _parts(history).values() for value in part):
            _logarithmic(axes)
        axes[0].set_ylabel("training loss (nats per sample)")
    return figure


def validation_curves(histories: Mapping[str, History]) -> Figure:
    """Accuracy and cross-entropy on the validation split, one line per network.

    Where the networks end close together, the accuracy axis begins at the slowest one's value after a fifth of the
    epochs.

    Args:
        histories: by the network's label, the values after each epoch of ``val/accuracy`` and ``val/loss``, from the
            first validated epoch on; a network without validation has no line.
    """
    with paper_style():
        figure, (accuracy, loss) = new_figure(columns=2, width=3.1, height=2.5)
        early, first, last = [100.0], [100.0], [100.0]
        for order, (label, history) in enumerate(histories.items()):
            epochs = max(map(len, history.values()), default=0)
            percent = [100 * value for value in history.get("val/accuracy", ())]
            _draw(accuracy, percent, label, order, epochs)
            _draw(loss, history.get("val/loss", ()), label, order, epochs)
            early += percent[len(percent) // 5 :][:1]
            first += percent[:1]
            last += percent[-1:]
        accuracy.set_ylabel("validation accuracy (%)")
        # The first epochs would fill most of the axis where the differences at the end are small beside them.
        apart = 100 - min(last) > 0.25 * (100 - min(first))
        accuracy.set_ylim(bottom=max(min(first if apart else early) - 2, 0), top=100)
        accuracy.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
        loss.set_ylabel("validation cross-entropy (nats)")
        _logarithmic([loss])
        for axis in (accuracy, loss):
            _finish(axis)
        loss.legend()
    return figure


def language_model_curves(histories: Mapping[str, History]) -> Figure:
    """Cross-entropy per byte on training and on validation text, one line per network.

    Args:
        histories: by the network's label, the values after each epoch of ``val/loss`` and, if the objective has a term
            ``ce``, of ``train/loss/ce``.
    """
    with paper_style():
        figure, axes = new_figure(columns=2, width=3.1, height=2.5, share_y=True)
        panels = {"train/loss/ce": "training", "val/loss": "validation"}
        for axis, (name, title) in zip(axes, panels.items(), strict=True):
            for order, (label, history) in enumerate(histories.items()):
                _draw(axis, history.get(name, ()), label, order)
            _finish(axis, title)
        axes[0].set_ylabel("cross-entropy (nats per byte)")
        axes[1].legend()
    return figure


def _parts(history: History) -> dict[str, Sequence[float]]:
    """The parts by the names for a reader; the sum only if there are several parts."""
    parts: dict[str, Sequence[float]] = {}
    for prefix in _PREFIXES:
        own = {
            name.removeprefix(f"{prefix}/"): values for name, values in history.items() if name.startswith(f"{prefix}/")
        }
        peer = "peer: " if prefix == "train/peer_loss" else ""
        parts |= {peer + name: values for name, values in own.items()}
        if prefix in history and len(own) > 1:
            parts[f"{peer}weighted sum"] = history[prefix]
    return parts


def _draw(axis: Axes, values: Sequence[float], label: str, order: int, epochs: int | None = None) -> None:
    """Draw a line that ends at the last of `epochs`; by default there is one epoch per value."""
    begun = 0 if epochs is None else epochs - len(values)
    draw_line(axis, range(begun + 1, begun + len(values) + 1), values, label, order)


def _logarithmic(axes: Sequence[Axes]) -> None:
    for axis in axes:
        axis.set_yscale("log")
    low, high = axes[0].get_ylim()
    # Over more than two decades powers of ten are enough; over fewer the axis could have no numbers.
    steps = (1.0,) if high > 100 * low else (1.0, 2.0, 5.0)
    for axis in axes:
        axis.yaxis.set_major_locator(LogLocator(subs=steps))
        axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.yaxis.set_minor_locator(NullLocator())


def _finish(axis: Axes, title: str = "") -> None:
    axis.set_xlabel("epoch")
    axis.set_title(title)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axis.grid(axis="x", visible=False)
