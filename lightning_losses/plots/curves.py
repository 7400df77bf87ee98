"""Curves over the epochs of training."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

from lightning_losses.plots.style import draw_line, new_figure, paper_style

History = Mapping[str, Sequence[float]]
_PREFIXES = ("train/loss", "train/peer_loss")


def loss_curves(histories: Mapping[str, History]) -> Figure:
    """Every part of every network's training loss, unweighted, a panel a network, on a logarithmic scale.

    Args:
        histories: by the network's label, the values after each epoch under the names that
            `lightning_losses.modules` log: ``train/loss``, the weighted sum, and
            ``train/loss/<term>``; for a peer that trains too, ``train/peer_loss`` likewise.
    """
    with paper_style():
        figure, axes = new_figure(columns=len(histories), width=2.4, height=2.4, share_y=True)
        # One part, one colour, whichever panel it is in.
        names = list(dict.fromkeys(name for history in histories.values() for name in _parts(history)))
        for axis, (label, history) in zip(axes, histories.items(), strict=True):
            for name, values in _parts(history).items():
                _draw(axis, values, name, names.index(name))
            _finish(axis, label)
            # Empty where every sample of every step was dropped.
            if _parts(history):
                axis.legend()
        if all(value > 0 for history in histories.values() for part in _parts(history).values() for value in part):
            _logarithmic(axes)
        axes[0].set_ylabel("training loss (nats per sample)")
    return figure


def validation_curves(histories: Mapping[str, History]) -> Figure:
    """Accuracy and cross-entropy on the validation split, a line a network.

    The axis of accuracy begins where the slowest network is after a fifth of the epochs.

    Args:
        histories: by the network's label, the values after each epoch of ``val/accuracy`` and ``val/loss``, from the
            first one that was validated on; a network that never was has no line.
    """
    with paper_style():
        figure, (accuracy, loss) = new_figure(columns=2, width=3.1, height=2.5)
        early = [100.0]
        for order, (label, history) in enumerate(histories.items()):
            epochs = max(map(len, history.values()), default=0)
            percent = [100 * value for value in history.get("val/accuracy", ())]
            _draw(accuracy, percent, label, order, epochs)
            _draw(loss, history.get("val/loss", ()), label, order, epochs)
            early += percent[len(percent) // 5 :][:1]
        accuracy.set_ylabel("validation accuracy (%)")
        # The first epochs would take most of the axis, and the differences are at its end.
        accuracy.set_ylim(bottom=max(min(early) - 2, 0), top=100)
        accuracy.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
        loss.set_ylabel("validation cross-entropy (nats)")
        _logarithmic([loss])
        for axis in (accuracy, loss):
            _finish(axis)
        loss.legend()
    return figure


def language_model_curves(histories: Mapping[str, History]) -> Figure:
    """Cross-entropy per byte on training and on validation text, a line a network.

    Args:
        histories: by the network's label, the values after each epoch of ``val/loss`` and, if the objective has a term
            of that name, of ``train/loss/ce``.
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
    """The parts by the names that a reader knows; the sum only where it is one of several."""
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
    """A line that ends in the last of so many epochs; one for each value if that isn't said."""
    begun = 0 if epochs is None else epochs - len(values)
    draw_line(axis, range(begun + 1, begun + len(values) + 1), values, label, order)


def _logarithmic(axes: Sequence[Axes]) -> None:
    for axis in axes:
        axis.set_yscale("log")
    low, high = axes[0].get_ylim()
    # Over two decades, powers of ten say enough; over less they would leave an axis without numbers.
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
