"""Trains on the part of the gradient that does not merely rescale the weights (perpGrad)."""

from collections.abc import Sequence
from dataclasses import field

import lightning as L
from torch import nn
from torch.optim import Optimizer

from lightning_losses.callbacks.access import gradients_of, refuse_hidden_gradients, refuse_place_before
from lightning_losses.callbacks.declared import DeclaredCallback
from lightning_losses.callbacks.interventions.grokfast import Grokfast
from lightning_losses.optim.orthogonal_gradient import Scope, orthogonalize_gradients_
from lightning_losses.optim.selection import select_parameters


class OrthogonalGradient(DeclaredCallback):
    """Removes from every gradient its component along the weights, before each optimizer step.

    Once a network has memorised, gradient descent on cross-entropy mostly scales its weights up. That lowers the loss
    without learning anything, until the softmax saturates in floating point and training stops. Without that direction
    the network goes on learning, and groks.

    It acts on the gradients of the whole step: after accumulation, averaging over processes and AMP's unscaling, and
    before clipping. Monitors of the gradient, such as `NLMCosine`, must come before it in the trainer's list. It keeps
    no state.

    Args:
        scope: "tensor" projects each parameter on its own, "model" their concatenation.
        rescale: whether a projected gradient is scaled back to its former norm.
        include: shell-style patterns of the names of the parameters to project.
        exclude: patterns of names to leave alone.

    Raises:
        ValueError: an unknown scope; patterns that match nothing; a place before `Grokfast`; FSDP1 or DeepSpeed, which
            hide the gradients.

    Source:
        Prieto, Barsbey, Mediano, Birdal, 2025, "Grokking at the Edge of Numerical Stability", arXiv:2501.04697. The
        released optimizer ignores the betas of its base optimizer and loses its schedulers when a checkpoint is loaded;
        a callback leaves the optimizer alone.

    Example:
        >>> L.Trainer(callbacks=[OrthogonalGradient(exclude=["*bias"])], logger=False).callbacks[0].scope
        'tensor'
    """

    name = "orthogonal_gradient"

    scope: Scope = "tensor"
    rescale: bool = True
    include: Sequence[str] = ("*",)
    exclude: Sequence[str] = ()
    _parameters: dict[str, nn.Parameter] = field(init=False, default_factory=dict)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Find the parameters, once they are on the training device."""
        refuse_hidden_gradients(self.name, trainer)
        refuse_place_before(trainer, self, Grokfast, reason="which would add back what it removes")
        self._parameters = select_parameters(self.name, pl_module.named_parameters(), self.include, self.exclude)

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        """Project the gradients before this optimizer uses them."""
        gradients = gradients_of(self._parameters, optimizer)
        weights = [self._parameters[name] for name in gradients]
        orthogonalize_gradients_(weights, list(gradients.values()), scope=self.scope, rescale=self.rescale)
