"""Lets an optimizer forget its past gradients at one point of training."""

import math
from dataclasses import field
from typing import Any

import lightning as L

from lightning_losses.callbacks.declared import DeclaredCallback
from lightning_losses.numerics.settings import Share


class RestartOptimizer(DeclaredCallback):
    """Lets every optimizer forget its past gradients once a training, when a fraction of it is done.

    Where the weight of a penalty grows at once, as by `Switch`, the averages of an optimizer such as Adam are those of
    much smaller gradients, and its next steps are far too large. Learning rates and their schedules go on.

    Args:
        at: the fraction of training, from 0 to 1, that a `Switch` is given too; the first step that begins there.

    Raises:
        ValueError: when training begins, a training without an end.

    Source:
        Gulrajani and Lopez-Paz, 2020, "In Search of Lost Domain Generalization", arXiv:2007.01434, in whose code,
        DomainBed, Adam is made anew where the penalties of IRM and V-REx become large.

    Example:
        >>> RestartOptimizer(at=0.1).at
        0.1
    """

    name = "restart_optimizer"

    at: Share = 0.1
    _done: bool = field(init=False, default=False)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse a training whose length is not known; in a training that begins before `at`, be ready again."""
        steps = trainer.estimated_stepping_batches
        if not math.isfinite(steps) or steps < 1:
            raise ValueError("restart_optimizer: the number of steps is not known; give the trainer max_steps.")
        # Another training by the same callback, or one that is resumed to become longer, comes to `at` again.
        self._done = self._done and trainer.global_step / steps >= self.at

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Restart, if this step is the first one there."""
        if not self._done and trainer.global_step / trainer.estimated_stepping_batches >= self.at:
            for optimizer in trainer.optimizers:
                optimizer.state.clear()
            self._done = True

    def state_dict(self) -> dict[str, Any]:
        """Whether it is done."""
        return {"done": self._done}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self._done = state_dict["done"]
