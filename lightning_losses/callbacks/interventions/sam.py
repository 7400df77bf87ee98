"""Sharpness-aware minimisation: the gradient of the weights to which the loss rises most nearby."""

from collections.abc import Mapping

from torch import Tensor

from lightning_losses.callbacks.interventions.repeated_step import RepeatedStep
from lightning_losses.callbacks.interventions.second_gradient import SecondGradient
from lightning_losses.numerics.settings import NonNegative
from lightning_losses.optim.perturbation import norm_of, perturbed, scaled_direction


class SAM(SecondGradient):
    """Trains by the gradient at the weights where the loss is about largest within a distance ρ.

    ``w <- w - step(grad L(w + e))`` with ``e = ρ g / (|g| + 10^-12)`` and ``g = grad L(w)``,

    where the norm is over all weights of the optimizer together. It prefers minima around which the loss stays low. A
    step costs two. With ρ = 0 it is the optimizer alone.

    Args:
        rho: ρ, at least 0; in the weights' units.
        local: under DDP, whether each process climbs by the gradient of its own batch, as in the paper's experiments on
            several accelerators (m-sharpness), which also saves an exchange; else by that of all, as one process does.

    Raises:
        ValueError: settings out of range; what `SecondGradient` refuses.

    Source:
        Foret, Kleiner, Mobahi, Neyshabur, 2021, "Sharpness-Aware Minimization for Efficiently Improving
        Generalization", arXiv:2010.01412; steps compared with davda54/sam. There e is taken of half-precision and
        infinite gradients as they come; here an infinite gradient doesn't move the weights, and AMP skips the step.

    Example:
        >>> import lightning as L
        >>> L.Trainer(callbacks=[SAM(rho=0.1)], logger=False).callbacks[0].rho
        0.1
    """

    name = "sam"

    rho: NonNegative = 0.05
    local: bool = False

    @property
    def keeps_own_gradients(self) -> bool:
        """Whether each process climbs by its own gradient."""
        return self.local

    def change_gradients(self, step: RepeatedStep) -> None:
        """Climb, and take the gradient there."""
        with perturbed(step.weights, self.ascent(step.weights, step.gradients())):
            step.repeat()

    def ascent(self, weights: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The step e to higher loss, by the names of the weights."""
        return scaled_direction(gradients, self.rho / (norm_of(gradients) + 1e-12))
