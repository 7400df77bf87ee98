"""Trains with a constant norm of all weights."""

from collections.abc import Sequence
from dataclasses import field

import lightning as L
from torch import nn
from torch.utils.hooks import RemovableHandle

from lightning_losses.callbacks.access import refuse_hidden_gradients, refuse_place_after
from lightning_losses.callbacks.companions.class_centroids import ClassCentroids
from lightning_losses.callbacks.companions.domain_weights import DomainWeights
from lightning_losses.callbacks.declared import DeclaredCallback
from lightning_losses.numerics.settings import Positive
from lightning_losses.optim.selection import select_parameters
from lightning_losses.optim.weight_norm import project_weight_norm_, scale_weights_, weight_norm


class WeightNormProjection(DeclaredCallback):
    """Keeps the norm of all weights together constant, by one factor after every optimizer step.

    Grokking is the slow way from too large a weight norm to one that generalises. With the right constant norm there is
    no delay; scaling the initial weights up (``scale`` > 1) causes one. Use an optimizer without weight decay. The
    projection runs inside the optimizer's step: before any averaging of weights, and not after a step that AMP skips.
    The norm is checkpointed.

    Args:
        scale: the factor of the initial weights, applied once.
        norm: the norm to keep; None keeps the norm of the scaled initial weights.
        include: shell-style patterns of the names of the parameters to project.
        exclude: patterns of names to leave alone, for example those of normalisation layers.

    Attributes:
        norm: the norm that is kept, once training has started.

    Raises:
        ValueError: a scale or norm of 0 or less; patterns that match nothing; a place after `ClassCentroids` or
            `DomainWeights`; FSDP1 or DeepSpeed; all weights 0.

    Source:
        Liu, Michaud, Tegmark, 2022, "Omnigrok: Grokking Beyond Algorithmic Data", arXiv:2210.01117.

    Example:
        >>> WeightNormProjection(scale=0.8, exclude=["*norm*"]).scale
        0.8
    """

    name = "weight_norm_projection"
    kept = ("norm", "_started")

    scale: Positive = 1.0
    norm: Positive | None = None
    include: Sequence[str] = ("*",)
    exclude: Sequence[str] = ()
    _started: bool = field(init=False, default=False)
    _handles: list[RemovableHandle] = field(init=False, default_factory=list)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Scale the initial weights, take their norm, and hook into every optimizer's step."""
        refuse_hidden_gradients(self.name, trainer)
        reason = "which evaluates the weights before they are scaled"
        refuse_place_after(trainer, self, ClassCentroids, DomainWeights, reason=reason)
        selected = select_parameters(self.name, pl_module.named_parameters(), self.include, self.exclude)
        parameters: list[nn.Parameter] = list(selected.values())
        # A resumed run has done this already; projecting again would change the last bits.
        if not self._started:
            scale_weights_(parameters, self.scale)
            if self.norm is None:
                self.norm = float(weight_norm(parameters))
            project_weight_norm_(parameters, self.norm)
            self._started = True
        assert self.norm is not None
        norm = self.norm
        for optimizer in trainer.optimizers:
            handle = optimizer.register_step_post_hook(lambda *step: project_weight_norm_(parameters, norm))
            self._handles.append(handle)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Remove the hooks from the optimizers."""
        while self._handles:
            self._handles.pop().remove()
