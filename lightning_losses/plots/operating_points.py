"""How well each class is verified at every threshold: the spread that OPIS measures."""

from jaxtyping import Float, Int
from matplotlib.figure import Figure
from torch import Tensor

from lightning_losses.plots.style import COLORS, new_figure, paper_style


def operating_points(
    thresholds: Float[Tensor, " thresholds"],
    utility: Float[Tensor, "classes thresholds"],
    classes: Int[Tensor, " classes"],
    *,
    title: str = "",
) -> Figure:
    """A line for each class: the harmonic mean of sensitivity and specificity over thresholds of distance.

    Args:
        thresholds: [T] distances, as `lightning_losses.metrics.opis` returns them.
        utility: [K, T], likewise.
        classes: [K], likewise.
        title: above the axis.

    Example:
        >>> import torch
        >>> figure = operating_points(torch.linspace(0, 1, 3), torch.rand(2, 3), torch.tensor([4, 7]))
        >>> len(figure.axes[0].lines)
        3
    """
    with paper_style():
        figure, (axis,) = new_figure(columns=1, width=4.4, height=2.6)
        for number, (name, line) in enumerate(zip(classes.tolist(), utility.tolist(), strict=True)):
            # Many classes are a band rather than lines that are told apart.
            label = f"class {name}" if len(classes) <= 8 else None
            color = COLORS[number % len(COLORS)] if len(classes) <= 8 else "0.7"
            axis.plot(thresholds.tolist(), line, color=color, linewidth=0.9, label=label)
        axis.plot(thresholds.tolist(), utility.mean(dim=0).tolist(), color="black", linestyle="--", label="mean")
        axis.set_xlabel("threshold (distance)")
        axis.set_ylabel("utility")
        axis.set_title(title)
        # Beside the axis, where no line runs.
        axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure
