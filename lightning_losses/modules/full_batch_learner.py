"""A LightningModule for tasks whose step is one batch of everything: as little beside the mathematics as can be."""

from collections.abc import Callable, Iterable
from typing import Any, Literal

import lightning as L
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_losses.objective import Objective
from lightning_losses.tensors import check_choice

Batch = dict[str, Tensor]
Measure = Literal["accuracy", "loss"]


class FullBatchLearner(L.LightningModule):
    """Trains a network on whole batches, logging nothing in the training step.

    A step of such a task may take a millisecond, of which logging would be a third; the monitors log what they
    measure, when they do. `Classifier` is for everything else.

    Validation logs ``val/accuracy`` and ``val/loss``, cross-entropy, for classes; ``val/loss``, the mean squared
    error, for regression.

    Args:
        network: maps `inputs` to logits [B, C], or to a regression's output [B, 1].
        objective: what is minimised; fed with `logits` and `target`.
        optimizer: makes the optimizer from the parameters; AdamW at its defaults if None.
        measure: "accuracy" for classes, "loss" for regression.

    Raises:
        ValueError: an unknown measure.

    Example:
        >>> from lightning_losses import CrossEntropy
        >>> module = FullBatchLearner(nn.Linear(4, 3), Objective({"ce": CrossEntropy()}))
        >>> sorted(module.training_step({"inputs": torch.zeros(2, 4), "target": torch.tensor([0, 1])}, 0))
        ['logits', 'loss', 'target']
    """

    def __init__(
        self,
        network: nn.Module,
        objective: Objective,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] | None = None,
        measure: Measure = "accuracy",
    ) -> None:
        super().__init__()
        check_choice("full_batch_learner", "measure", measure, Measure)
        self.network = network
        self.objective = objective
        self.make_optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] = optimizer or torch.optim.AdamW
        self.measure: Measure = measure

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning notes the name of every hook it runs, 40 times a step; a plain string needs no look at parameters.
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def forward(self, inputs: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch classes"]:
        """The logits of a batch of inputs."""
        return self.network(inputs)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """The objective of one batch."""
        logits, target = self.network(batch["inputs"]), batch["target"]
        return {"loss": self.objective(logits=logits, target=target).total, "logits": logits, "target": target}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Metrics on one batch."""
        logits, target = self.network(batch["inputs"]), batch["target"]
        if self.measure == "accuracy":
            metrics = {
                "val/accuracy": (logits.argmax(dim=-1) == target).float().mean(),
                "val/loss": F.cross_entropy(logits.float(), target),
            }
        else:
            metrics = {"val/loss": F.mse_loss(logits, target)}
        self.log_dict(metrics, batch_size=len(target), sync_dist=True)

    def configure_optimizers(self) -> Optimizer:
        """One optimizer for the network."""
        return self.make_optimizer(self.parameters())
