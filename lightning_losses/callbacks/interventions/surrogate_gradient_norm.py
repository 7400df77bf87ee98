"""Penalises how strongly a model's mean prediction depends on its weights (IGNITE)."""

from collections.abc import Mapping
from dataclasses import field
from typing import Any

import lightning as L
import torch
from torch import Tensor

from lightning_losses.callbacks.access import on_device
from lightning_losses.callbacks.interventions.repeated_step import RepeatedStep
from lightning_losses.callbacks.interventions.second_gradient import SecondGradient
from lightning_losses.numerics.probabilities import full_precision
from lightning_losses.numerics.settings import NonNegative, Positive
from lightning_losses.optim.perturbation import norm_of, perturbed, scaled_direction
from lightning_losses.parallel.processes import total_of_all, world_size


class SurrogateGradientNorm(SecondGradient):
    """Adds ``λ ρ |u|`` to the loss, where u is the gradient of the mean prediction with respect to the weights.

    ``grad L(w) + λ (ρ / r) (grad G(w + r u / |u|) - u)`` with ``u = grad G(w)`` and ``G`` the step's mean prediction,

    a finite difference of the penalty's gradient. For a model that another search will optimise over: where its
    prediction hardly depends on its weights, it misleads the search less. A step costs three.

    Args:
        weight: λ, at least 0.
        rho: ρ, at least 0.
        radius: r, above 0, in the weights' units.
        learning_rate: η, at least 0. Above 0, λ learns to hold ``ρ |u|`` at the bound: ``λ <- λ + η (ρ |u| - bound)``,
            at least 0; with 0 it stays.
        bound: at least 0.
        predictions: the name of the predictions in the training step's output; the mean is over all their numbers.

    Attributes:
        multiplier: λ as it is now.

    Raises:
        ValueError: settings out of range; a step that doesn't return the predictions, or returns them detached; what
            `SecondGradient` refuses.

    Source:
        Dao, Nguyen, Truong, Hoang, 2024, "Incorporating Surrogate Gradient Norm to Improve Offline Optimization
        Techniques", arXiv:2503.04242, and its code, cuong-dm/IGNITE, whose IGNITE2 has these defaults. There λ may fall
        below 0; and where the loss is of noisy inputs, G is of clean ones. Here both are of the step's inputs.

    Example:
        >>> SurrogateGradientNorm(weight=0.001, rho=0.05, radius=0.05, learning_rate=0.001).multiplier
        tensor(0.0010, dtype=torch.float64)
    """

    name = "surrogate_gradient_norm"
    kept = ("multiplier",)

    weight: NonNegative = 0.01
    rho: NonNegative = 0.2
    radius: Positive = 0.2
    learning_rate: NonNegative = 0.0
    bound: NonNegative = 0.1
    predictions: str = "mean"
    multiplier: Tensor = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.multiplier = torch.tensor(self.weight, dtype=torch.float64)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin with λ, unless a training goes on."""
        super().on_train_start(trainer, pl_module)
        if trainer.global_step == 0:
            self.multiplier = torch.tensor(self.weight, dtype=torch.float64)

    def note(self, output: Any) -> int:
        """Count the step's predictions."""
        if not isinstance(output, Mapping) or not isinstance(output.get(self.predictions), Tensor):
            came = ", ".join(map(repr, output)) if isinstance(output, Mapping) else f"a {type(output).__name__}"
            raise ValueError(
                f"{self.name}: the training step returned {came} without {self.predictions!r}; return "
                f'{{"loss": loss, "{self.predictions}": ...}}, or give predictions= another name.'
            )
        predictions: Tensor = output[self.predictions]
        if not predictions.requires_grad:
            raise ValueError(
                f"{self.name}: {self.predictions!r} came without a gradient, and the penalty is of it; return the "
                "predictions as the network gives them, not detached."
            )
        return predictions.numel()

    def change_gradients(self, step: RepeatedStep) -> None:
        """Add the penalty's gradient to the loss's."""
        share = world_size() / total_of_all(on_device(step.trainer, sum(step.noted)))

        def mean_prediction(output: Any, number: int) -> Tensor:
            predicted = full_precision(output[self.predictions])
            return predicted.sum() * share.to(predicted.dtype)

        loss = step.gradients()
        slope = step.repeat(mean_prediction)
        length = norm_of(slope)
        with perturbed(step.weights, scaled_direction(slope, self.radius / length)):
            moved = step.repeat(mean_prediction)
        self.multiplier = on_device(step.trainer, self.multiplier)
        factor = self.multiplier * self.rho / self.radius
        # A pass at other weights may take another way through the model, and miss some of them.
        reached = [name for name in step.weights if name in loss or name in slope or name in moved]
        steepening = {name: moved.get(name, 0.0) - slope.get(name, 0.0) for name in reached}
        step.leave(
            {name: loss.get(name, 0.0) + factor.to(step.weights[name].dtype) * steepening[name] for name in reached}
        )
        change = self.learning_rate * (self.rho * length.to(factor) - self.bound)
        # A step that AMP skips has no length.
        self.multiplier = (self.multiplier + change.nan_to_num(0.0, 0.0, 0.0)).clamp(min=0.0)
