"""Watches whether the terms of an objective pull shared parameters in opposite directions."""

from typing import Any

import lightning as L

from lightning_losses.callbacks.monitors.monitor import Monitor
from lightning_losses.mixins.objective import ObjectiveMixin
from lightning_losses.plots.gradient_conflict import conflict_panels
from lightning_losses.plots.style import Figure


class GradientConflict(Monitor):
    """Logs the cosines between the terms' gradients, their lengths, and a policy's weights.

    Two terms conflict if their cosine is below 0: a step against one term's gradient then raises the other's loss. The
    gradients are those of the whole optimizer step, over all batches and processes, each times its term's weight. They
    are taken with respect to the parameters that more than one term depends on, or those that the objective's policy
    names. It logs ``cosine/<term>/<term>``, ``length/<term>`` and, with a policy, ``weight/<term>``. A gradient of 0
    has cosine 0 with all others. A step whose gradients are not finite logs nothing.

    Cost: a backward pass for each term, and memory for its gradient, every n steps; nothing if the policy computes
    these gradients anyway.

    Args:
        every_n_steps, folder: see `Monitor`.

    Raises:
        ValueError: when training begins, a module without `ObjectiveMixin`, or a `LanguageModel`, whose fused head adds
            up its terms; manual optimization; FSDP2 or DeepSpeed.

    Source:
        Yu, Kumar, Gupta, Levine, Hausman, Finn, 2020, "Gradient Surgery for Multi-Task Learning", arXiv:2001.06782,
        which calls gradients of a negative cosine conflicting.

    Example:
        >>> GradientConflict(every_n_steps=50).name
        'gradient_conflict'
    """

    name = "gradient_conflict"

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse a module that has no terms."""
        if not isinstance(pl_module, ObjectiveMixin):
            raise ValueError(
                f"{self.name}: {type(pl_module).__name__} has no objective whose terms could be watched; give it "
                "ObjectiveMixin."
            )
        if not pl_module.offers_terms:
            raise ValueError(
                f"{self.name}: {type(pl_module).__name__} adds its terms up in a fused head, where their gradients "
                "can't be told apart; leave this monitor out, or train on logits with ObjectiveMixin."
            )

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Request the step's gradients, when due."""
        if self.due(trainer.global_step):
            assert isinstance(pl_module, ObjectiveMixin)
            pl_module.watch_terms()

    def on_after_backward(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Record the gradients after the step's last batch."""
        assert isinstance(pl_module, ObjectiveMixin)
        record = pl_module.term_record()
        if record is None:
            return
        lengths = record.gram.diagonal().clamp(min=0).sqrt()
        cosines = record.gram / lengths.clamp(min=1e-300) / lengths.clamp(min=1e-300).unsqueeze(-1)
        values = {
            f"cosine/{one}/{other}": cosines[i, j].item()
            for i, one in enumerate(record.terms)
            for j, other in enumerate(record.terms)
            if i < j
        }
        values |= {f"length/{term}": length for term, length in zip(record.terms, lengths.tolist(), strict=True)}
        if record.weights is not None:
            weights = record.weights.tolist()
            values |= {f"weight/{term}": weight for term, weight in zip(record.terms, weights, strict=True)}
        self.record(trainer, trainer.global_step, values)

    def figure(self) -> Figure:
        """Cosines, lengths and weights over steps, a panel each."""
        return conflict_panels(self.curves())
