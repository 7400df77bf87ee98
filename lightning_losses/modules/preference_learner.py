"""A ready LightningModule that trains a language model by preferences."""

from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from torch import nn

from lightning_losses.kernels.cross_entropy.problem import Impl
from lightning_losses.mixins.preference import PreferenceMixin
from lightning_losses.modules.classifier import OptimizerFactory, SchedulerFactory, parameters_to_train, with_scheduler
from lightning_losses.networks.weights import copy_weights
from lightning_losses.numerics.checks import check_choice
from lightning_losses.objective import Objective


class PreferenceLearner(PreferenceMixin, L.LightningModule):
    """Trains a language model by preferences, with any objective of preference losses.

    Batches and what is logged are as `PreferenceMixin` says; validation logs the objective as ``val/loss``.

    Args:
        teacher: the reference, frozen: a network, `WithoutAdapters(network)`, or what `load_cached_teacher` gives of
            `cache_reference`; None for losses without a reference.
        network: the network to train.
        objective: the objective to minimise.
        start_from_reference: whether the network begins with the reference's weights.
        optimizer: a function that makes the optimizer from the parameters; AdamW with its defaults if None.
        scheduler: a function that makes a learning-rate scheduler; it is stepped at every optimizer step.
        impl: the implementation of the fused losses.

    Raises:
        ValueError: an unknown `impl`; no reference, or one with other layers, where the network is to begin with its
            weights.

    Example:
        >>> from lightning_losses.losses import SimPO
        >>> from lightning_losses.networks.transformer import Transformer
        >>> network = Transformer(9, context_length=8, width=8, depth=1, heads=2)
        >>> model = PreferenceLearner(network=network, objective=Objective({"simpo": SimPO()}))
        >>> rows = torch.arange(9).reshape(1, 9)
        >>> chosen, rejected = ({"inputs": r[:, :8], "target": r[:, 1:]} for r in (rows, rows.flip(1)))
        >>> model.training_step({"chosen": chosen, "rejected": rejected}, 0)["loss"].requires_grad
        True
    """

    logged_as = "{stage}/loss"

    def __init__(
        self,
        teacher: nn.Module | None = None,
        *,
        network: nn.Module,
        objective: Objective,
        start_from_reference: bool = False,
        optimizer: OptimizerFactory | None = None,
        scheduler: SchedulerFactory | None = None,
        impl: Impl = "auto",
    ) -> None:
        self.teacher = teacher
        super().__init__()
        check_choice(type(self).__name__, "impl", impl, Impl)
        self.network, self.objective, self.record_impl = network, objective, impl
        self.make_optimizer: OptimizerFactory = optimizer or torch.optim.AdamW
        self.make_scheduler = scheduler
        if start_from_reference:
            if teacher is None:
                raise ValueError(
                    f"{type(self).__name__}: start_from_reference=True came without a teacher; give the reference."
                )
            copy_weights(type(self).__name__, teacher, network)

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> dict[str, Any]:
        """The objective of one batch."""
        return self.preference_step(batch)

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> dict[str, Any]:
        """The same, of validation data."""
        return self.preference_step(batch)

    def test_step(self, batch: Mapping[str, Any], batch_idx: int) -> dict[str, Any]:
        """The same, of test data."""
        return self.preference_step(batch)

    def configure_optimizers(self) -> Any:
        """One optimizer for the network."""
        parameters = parameters_to_train(self, self.objective)
        return with_scheduler(self.make_optimizer(parameters), self.make_scheduler)
