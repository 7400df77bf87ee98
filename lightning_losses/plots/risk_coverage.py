"""The risk-coverage curve: the error rate among the most confident samples."""

from collections.abc import Mapping

from jaxtyping import Float, Int
from matplotlib.figure import Figure
from torch import Tensor

from lightning_losses.metrics.area_under_risk_coverage import risk_coverage_curve
from lightning_losses.metrics.predictions import Inputs, Task
from lightning_losses.plots.style import draw_line, paper_style


def risk_coverage(
    predictions: Float[Tensor, "..."] | Mapping[str, Float[Tensor, "..."]],
    target: Int[Tensor, "..."],
    *,
    inputs: Inputs,
    task: Task = "multiclass",
    title: str | None = None,
    ignore_index: int = -100,
) -> Figure:
    """Draw risk-coverage curves, compared with the best possible order for the first one's errors.

    Args:
        predictions: [..., C] (or [...] for binary), or several by name.
        target: [...] class indices.
        inputs: "logits" or "probabilities".
        task: "multiclass" or "binary".
        title: the title above the figure.
        ignore_index: rows with this target are left out.

    Returns:
        A figure outside pyplot's registry.

    Raises:
        ValueError: shapes that do not fit; NaN or probabilities out of range; no samples.

    Source:
        El-Yaniv, Wiener, 2010, "On the Foundations of Noise-free Selective Classification".

    Example:
        >>> import torch
        >>> figure = risk_coverage(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0]), inputs="logits")
        >>> figure.axes[0].get_xlabel()
        'coverage'
    """
    several = {"risk": predictions} if isinstance(predictions, Tensor) else dict(predictions)
    with paper_style():
        figure = Figure(figsize=(3.4, 2.6), layout="constrained")
        axes = figure.subplots()
        for number, (name, values) in enumerate(several.items()):
            curve = risk_coverage_curve(values, target, inputs=inputs, task=task, ignore_index=ignore_index)
            coverage, risk = curve.coverage.double().cpu(), curve.risk.cpu()
            if len(risk) == 0:
                raise ValueError("risk_coverage: no samples came; there is nothing to draw.")
            if number == 0:
                # With every error last there is no risk until all correct samples are used.
                best = (coverage - (1 - risk[-1])).clamp(min=0) / coverage
                axes.plot(
                    coverage.tolist(), best.tolist(), color="#777777", linewidth=0.8, linestyle="--", label="best order"
                )
            draw_line(axes, coverage.tolist(), risk.tolist(), f"{name}, AURC {float(risk.mean()):.4f}", number)
        axes.set(xlabel="coverage", ylabel="risk (error rate)", xlim=(0, 1))
        axes.set_ylim(bottom=0)
        axes.legend(loc="upper left")
        if title:
            axes.set_title(title)
    return figure
