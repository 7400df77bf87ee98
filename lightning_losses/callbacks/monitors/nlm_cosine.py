"""Watches naive loss minimisation: how much of the descent direction only rescales the weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import lightning as L
import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Optimizer

from lightning_losses.callbacks.access import gradients_of, refuse_hidden_gradients, refuse_place_after
from lightning_losses.callbacks.interventions.grokfast import Grokfast
from lightning_losses.callbacks.interventions.orthogonal_gradient import OrthogonalGradient
from lightning_losses.callbacks.monitors.monitor import Monitor
from lightning_losses.optim.selection import select_parameters
from lightning_losses.parallel.sharding import whole_dots
from lightning_losses.plots.grokking import value_curves
from lightning_losses.plots.style import Figure


@torch.no_grad()
def nlm_cosine(
    weights: Sequence[Tensor], gradients: Sequence[Tensor]
) -> tuple[Float[Tensor, ""], Float[Tensor, " tensors"]]:
    """``-<g, w> / (|g| |w|)`` over the concatenation of all tensors, and of each tensor.

    1 says that a step of descent is a pure scaling up of the weights. A norm of 0 gives 0.

    Source:
        Prieto, Barsbey, Mediano, Birdal, 2025, "Grokking at the Edge of Numerical Stability", arXiv:2501.04697,
        definition 5; the sign is ours.

    Example:
        >>> whole, each = nlm_cosine([torch.tensor([1.0, 0.0])], [torch.tensor([-2.0, 0.0])])
        >>> whole.item(), each.tolist()
        (1.0, [1.0])
    """
    products = whole_dots([*weights, *weights, *gradients], [*gradients, *weights, *gradients])
    along, size, length = products.reshape(3, -1)
    return _cosine(along.sum(), size.sum(), length.sum()), _cosine(along, size, length)


def _cosine(along: Tensor, size: Tensor, length: Tensor) -> Tensor:
    norms = size.sqrt() * length.sqrt()
    return torch.where(norms > 0, -along / torch.where(norms > 0, norms, 1.0), 0.0)


class NLMCosine(Monitor):
    """Logs the cosine between the descent direction and the weights, of the whole network and of each parameter.

    Near 0 at the start; towards 1 once a network has memorised and only scales itself up. It sees the gradients after
    accumulation, averaging and unscaling, before clipping; it stands before `OrthogonalGradient` and `Grokfast` in
    the trainer's list, or would measure what they leave.

    Cost: three products over the parameters, every n steps.

    Args:
        include: shell-style patterns of the names of the parameters to watch.
        exclude: patterns of names to leave out.
        every_n_steps: see `Monitor`.
        folder: see `Monitor`.

    Raises:
        ValueError: patterns that match nothing; a place behind the callbacks named above; FSDP1 or DeepSpeed.

    Source:
        Prieto, Barsbey, Mediano, Birdal, 2025, "Grokking at the Edge of Numerical Stability", arXiv:2501.04697.

    Example:
        >>> NLMCosine(every_n_steps=50).name
        'nlm_cosine'
    """

    name: ClassVar[str] = "nlm_cosine"

    def __init__(
        self,
        include: Sequence[str] = ("*",),
        exclude: Sequence[str] = (),
        every_n_steps: int = 10,
        folder: str | Path | None = None,
    ) -> None:
        super().__init__(every_n_steps, folder)
        self.include = include
        self.exclude = exclude

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Find the parameters."""
        refuse_hidden_gradients(self.name, trainer)
        refuse_place_after(trainer, self, OrthogonalGradient, Grokfast)
        self._parameters = select_parameters(self.name, pl_module.named_parameters(), self.include, self.exclude)

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        """Measure."""
        if not self.due(trainer.global_step):
            return
        gradients = gradients_of(self._parameters, optimizer)
        whole, each = nlm_cosine([self._parameters[name] for name in gradients], list(gradients.values()))
        values = torch.cat([whole.reshape(1), each]).tolist()
        self.record(trainer, trainer.global_step, dict(zip(["all", *gradients], values, strict=True)))

    def figure(self) -> Figure:
        """The cosines over steps."""
        curves = {name: (self.steps[-len(values) :], values) for name, values in self.values.items()}
        return value_curves(curves, ylabel="cosine of -gradient and weights", highlight="all")
