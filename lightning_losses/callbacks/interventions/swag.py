"""Collects the weights of the end of a training, for predictions averaged over a Gaussian of them (SWAG)."""

from collections.abc import Iterable
from dataclasses import field
from typing import Any

import lightning as L
import torch
from torch import nn

from lightning_losses.callbacks.access import refuse_hidden_gradients
from lightning_losses.callbacks.declared import DeclaredCallback, plain_copy
from lightning_losses.numerics.checks import check_count, check_number
from lightning_losses.numerics.settings import Count, NonNegative, Seed, Share
from lightning_losses.optim.gaussian_weights import GaussianWeights
from lightning_losses.parallel.sharding import whole
from lightning_losses.teachers.ensemble import Average, TeacherEnsemble
from lightning_losses.teachers.weight_samples import has_batch_norm, submodule, weight_ensemble


class SWAG(DeclaredCallback):
    """Fits a Gaussian to the weights after each of the last epochs, and makes an ensemble of draws from it.

    The training stays as it is: use a learning rate that stays large enough to wander, such as a constant one. The
    state is on the host, `rank` + 2 copies of the weights, and in the checkpoint.

    Args:
        start: the share of the epochs after which weights are collected, from 0 to 1.
        every_n_epochs: epochs from one collection to the next, at least 1.
        rank: see `GaussianWeights`.
        part: the name of the module's part whose weights are meant; an empty one is the whole module.

    Attributes:
        weights: the `GaussianWeights`.

    Raises:
        ValueError: settings out of range; a part that the module doesn't have; a training without a number of epochs;
            FSDP1 or DeepSpeed.

    Source:
        Maddox, Garipov, Izmailov, Vetrov, Wilson, 2019, "A Simple Baseline for Bayesian Uncertainty in Deep Learning",
        arXiv:1902.02476.

    Example:
        >>> swag = SWAG(start=0.5)
        >>> for value in (1.0, 3.0):
        ...     swag.weights.collect({"weight": torch.full((1, 1), value)})
        >>> swag.ensemble(nn.Linear(1, 1, bias=False), samples=8, scale=0.0, average="logits")(torch.ones(1, 1))
        tensor([[2.]])
    """

    name = "swag"

    start: Share = 0.75
    every_n_epochs: Count = 1
    rank: Count = 20
    part: str = "network"
    weights: GaussianWeights = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.weights = GaussianWeights(self.rank)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse what has no weights to collect, or no end."""
        refuse_hidden_gradients(self.name, trainer)
        submodule(self.name, pl_module, self.part)
        if trainer.max_epochs is None or trainer.max_epochs < 1:
            raise ValueError(f"{self.name}: a training without max_epochs came, which has no last epochs; give one.")
        if trainer.global_step == 0:
            # An earlier training's weights are another minimum's.
            self.weights = GaussianWeights(self.rank)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Collect the epoch's weights, if it is one of the last."""
        assert trainer.max_epochs is not None
        late = trainer.current_epoch - int(self.start * trainer.max_epochs)
        if late >= 0 and late % self.every_n_epochs == 0:
            part = submodule(self.name, pl_module, self.part)
            self.weights.collect({name: whole(p.detach()).cpu() for name, p in part.named_parameters()})

    def ensemble(
        self,
        network: nn.Module,
        samples: int = 20,
        *,
        scale: NonNegative = 1.0,
        seed: Seed = 0,
        batches: Iterable[Any] | None = None,
        average: Average = "probabilities",
    ) -> TeacherEnsemble:
        """Copies of the network at drawn weights, whose probabilities are averaged.

        Args:
            network: the part, trained or as it was built; it stays as it is.
            samples: how many, at least 1.
            scale: of the deviation from the mean; with 0 all copies have the mean weights (SWA).
            seed: of the draws.
            batches: of training; needed if the network has BatchNorm, whose statistics are those of other weights.
            average: "logits" for the mean of outputs that are no classes, such as a regression's.

        Raises:
            ValueError: arguments out of range; BatchNorm without batches, or without one; fewer than two collected
                weights; weights of another network, or no finite numbers.
        """
        check_count(self.name, "samples", samples)
        check_number(self.name, "scale", scale, least=0)
        if batches is None and has_batch_norm(network):
            raise ValueError(f"{self.name}: the network has BatchNorm; give batches= of training for its statistics.")
        generator = torch.Generator().manual_seed(seed)
        drawn = [self.weights.sample(generator, scale) for _ in range(samples)]
        return weight_ensemble(self.name, network, drawn, batches, average)

    def state_dict(self) -> dict[str, Any]:
        """The collected weights' moments."""
        return {"weights": plain_copy(self.weights.state_dict())}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore them from a checkpoint."""
        self.weights.load_state_dict(plain_copy(state_dict["weights"]))
