"""Adaptive sharpness-aware minimisation: the neighbourhood is measured in each weight's own size."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

import lightning as L
import torch
from torch import Tensor

from lightning_losses.callbacks.interventions.sam import SAM
from lightning_losses.numerics.probabilities import full_precision
from lightning_losses.numerics.settings import NonNegative
from lightning_losses.optim.perturbation import norm_of, scaled_direction
from lightning_losses.optim.selection import select_parameters


class ASAM(SAM):
    """SAM whose neighbourhood grows with the weights, so that rescaling layers without changing the network is free.

    ``e = ρ T^2 g / (|T g| + 10^-16)`` with ``T = |w| + η`` on the weights that `scaled` names, and 1 on others.

    Args:
        rho: ρ, at least 0; about ten times that of SAM.
        local: see `SAM`.
        eta: η, at least 0, so that weights of 0 move too.
        scaled: shell-style patterns of the names of the parameters with T; others, such as biases, have 1.

    Raises:
        ValueError: settings out of range; patterns that match nothing; what `SecondGradient` refuses.

    Source:
        Kwon, Kim, Park, Choi, 2021, "ASAM: Adaptive Sharpness-Aware Minimization for Scale-Invariant Learning of Deep
        Neural Networks", arXiv:2102.11600, and its code, SamsungLabs/ASAM, whose defaults these are. davda54/sam
        (``adaptive=True``) has ``eta=0`` and T on all parameters: ``ASAM(eta=0.0, scaled=["*"])``.

    Example:
        >>> ASAM().ascent({"weight": torch.tensor([3.99])}, {"weight": torch.tensor([0.5])})
        {'weight': tensor([2.])}
    """

    name = "asam"

    rho = 0.5
    eta: NonNegative = 0.01
    scaled: Sequence[str] = ("*weight*",)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse patterns that match nothing, too."""
        select_parameters(self.name, pl_module.named_parameters(), self.scaled)
        super().on_train_start(trainer, pl_module)

    @torch.no_grad()
    def ascent(self, weights: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The step e to higher loss, by the names of the weights."""
        sizes = {
            name: weights[name].detach().abs().add_(self.eta)
            for name in gradients
            if any(fnmatchcase(name, pattern) for pattern in self.scaled)
        }
        # Half precision has no numbers as small as small weights times small gradients.
        direction = {name: full_precision(gradient) * sizes.get(name, 1.0) for name, gradient in gradients.items()}
        factor = self.rho / (norm_of(direction) + 1e-16)
        for name, size in sizes.items():
            direction[name].mul_(size)
        return scaled_direction(direction, factor)
