"""A ready LightningModule that has a trained language model forget some texts."""

import copy
from typing import Any

import lightning as L
import torch
from jaxtyping import Float
from torch import Tensor, nn

from lightning_losses.kernels.cross_entropy.problem import Impl
from lightning_losses.mixins.unlearning import PARTS, UnlearningMixin
from lightning_losses.modules.classifier import (
    OptimizerFactory,
    SchedulerFactory,
    parameters_to_train,
    with_scheduler,
)
from lightning_losses.networks.calls import call, logits_of
from lightning_losses.numerics.checks import check_choice
from lightning_losses.objective import Objective
from lightning_losses.teachers import WithoutAdapters


class Unlearner(UnlearningMixin, L.LightningModule):
    """Has a trained language model forget some texts, by an objective of `lightning_losses.losses.unlearning`.

    Batches are mappings of `forget`, `retain` and `refusal`, as `UnlearningMixin` takes them. Training logs
    ``train/loss`` and ``train/loss/<term>``, ``train/forget_nll`` and ``train/retain_nll``; validation and test log
    the last two of every part that their batches have, in nats per token.

    Args:
        network: the trained language model, as `LanguageModel` takes it; it is trained on in place.
        objective: what to minimise.
        teacher: the reference; None: a frozen copy of the network as it comes, or the network with PEFT's adapters off,
            made only if the objective takes something of a reference.
        optimizer: a function that makes the optimizer from the parameters; AdamW with its defaults if None.
        scheduler: a function that makes a learning-rate scheduler; it is stepped at every optimizer step.
        impl: the implementation of the fused losses; "auto" chooses by size.
        from_teacher: whether the network begins with the teacher's weights, as recipes need it.

    Raises:
        ValueError: an unknown `impl`; `from_teacher` without a teacher of the same form.

    Example:
        >>> from lightning_losses import NPO
        >>> from lightning_losses.networks.transformer import Transformer
        >>> network = Transformer(vocabulary_size=9, context_length=8, width=8, depth=1, heads=2)
        >>> model = Unlearner(network, Objective({"npo": NPO(beta=0.1)}))
        >>> rows = torch.arange(9).reshape(1, 9)
        >>> step = model.training_step({"forget": {"inputs": rows[:, :8], "target": rows[:, 1:]}}, 0)
        >>> round(step["loss"].item(), 4)  # (2 / 0.1) log 2
        13.8629
    """

    logged_as = "{stage}/loss"

    def __init__(
        self,
        network: nn.Module,
        objective: Objective,
        teacher: nn.Module | None = None,
        optimizer: OptimizerFactory | None = None,
        scheduler: SchedulerFactory | None = None,
        impl: Impl = "auto",
        from_teacher: bool = False,
    ) -> None:
        super().__init__()
        check_choice(type(self).__name__, "impl", impl, Impl)
        if from_teacher:
            if teacher is None:
                raise ValueError(f"{type(self).__name__}: from_teacher=True came without a teacher; give one.")
            network.load_state_dict(teacher.state_dict())
        self.network, self.objective, self.record_impl = network, objective, impl
        takes_reference = any(objective.needs(f"ref_{part}_{kind}") for part in PARTS for kind in ("logps", "logits"))
        if teacher is None and takes_reference:
            adapted = callable(getattr(network, "disable_adapter", None))
            teacher = WithoutAdapters(network) if adapted else copy.deepcopy(network).requires_grad_(False)
        self.teacher = teacher
        self.make_optimizer: OptimizerFactory = optimizer or torch.optim.AdamW
        self.make_scheduler = scheduler

    def forward(self, inputs: Any, **further: Any) -> Float[Tensor, "batch tokens vocabulary"]:
        """The logits."""
        return logits_of(type(self).__name__, call(self.network, inputs, **further))

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        """The objective of one batch."""
        return self.unlearning_step(batch)

    def validation_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        """What the model says of each part of a batch."""
        return self._evaluate(batch)

    def test_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        """What the model says of each part of a batch."""
        return self._evaluate(batch)

    def configure_optimizers(self) -> Any:
        """One optimizer for the network."""
        return with_scheduler(self.make_optimizer(parameters_to_train(self, self.objective)), self.make_scheduler)

    def _evaluate(self, batch: Any) -> dict[str, Any]:
        tensors: dict[str, Any] = {}
        for part in (part for part in PARTS if part in batch):
            record = self.token_record(batch[part])
            tensors |= {f"{part}_logps": record.logps, f"{part}_mask": record.kept}
        self.log_parts(tensors)
        return tensors
