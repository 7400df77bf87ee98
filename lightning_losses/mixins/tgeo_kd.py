"""The mixin in which a controller learns, through the student's steps, how to mix the teacher with the label."""

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_losses.data.loading import held_out_loader, share_of_training_set
from lightning_losses.environment.lightning_internals import attached_trainer
from lightning_losses.losses.distillation.logits.mcmi import class_centroids, class_sums
from lightning_losses.losses.distillation.logits.tgeo_kd import (
    FusionController,
    LabelledBatch,
    tgeo_outer_loss,
    tgeo_state,
)
from lightning_losses.mixins.distillation import DistillationMixin
from lightning_losses.mixins.training_means import all_processes
from lightning_losses.numerics.checks import check_count, check_number, check_temperature
from lightning_losses.numerics.probabilities import full_precision, probabilities
from lightning_losses.numerics.rows import labelled_rows
from lightning_losses.objective.ignored_targets import ignored_targets
from lightning_losses.parallel.processes import is_distributed_tensor, total_of_all


class TGeoKDMixin(DistillationMixin):
    """Offers the `ratio` of `TGeoKD`: a controller computes it, and learns from its effect on held-out data.

    Call `start_tgeo` in the constructor and `tgeo_step` from `training_step`. It turns automatic optimization off. A
    step consists of two parts:

    1. the controller's: a copy of the student's weights takes a step on the mixed loss with the controller's ratios.
       The controller's gradient is that of the resulting student's cross-entropy on a batch of the validation split;
       the controller's own Adam follows it;
    2. the student's: its optimizer follows the gradient of `objective`, where the ratios are constants.

    When training begins, one pass over the training set gives the teacher's mean prediction of each class. The
    controller, its optimizer and the means are saved with the module. Under DDP each process takes the copied step on
    its own batch, and the controller's gradient is that of the mean over all held-out samples. FSDP2 is not supported:
    the copied step needs the whole weights.

    Attributes:
        controller: the `FusionController`; trained by this mixin, so its parameters have `requires_grad` off.
        class_means: [C, C] the teacher's mean prediction of each class.
    """

    controller: FusionController
    class_means: Tensor

    def start_tgeo(
        self,
        num_classes: int,
        network: str = "network",
        *,
        temperature: float = 1.5,
        learning_rate: float | None = None,
        controller_learning_rate: float = 0.1,
        controller_weight_decay: float = 0.05,
        every: int = 1,
    ) -> None:
        """Create the controller.

        Args:
            num_classes: C.
            network: the student's name among the submodules.
            temperature: τ of the mixed loss in the controller's step, above 0.
            learning_rate: η of the copied step, at least 0; None takes the learning rate of the student's optimizer.
            controller_learning_rate: learning rate of the controller's Adam.
            controller_weight_decay: weight decay of the controller's Adam.
            every: number of student steps for each controller step.
        """
        check_temperature("tgeo_kd", temperature)
        check_number("tgeo_kd", "learning_rate", 0.0 if learning_rate is None else learning_rate, least=0)
        check_number("tgeo_kd", "controller_learning_rate", controller_learning_rate, least=0)
        check_number("tgeo_kd", "controller_weight_decay", controller_weight_decay, least=0)
        check_count("tgeo_kd", "every", every)
        self.automatic_optimization = False
        # DDP waits in every backward pass for the gradient of each parameter that requires one.
        self.controller = FusionController(num_classes).requires_grad_(False)
        self.register_buffer("class_means", torch.full((num_classes, num_classes), 1 / num_classes))
        self.__dict__["_tgeo"] = {
            "network": network,
            "temperature": temperature,
            "learning_rate": learning_rate,
            "every": every,
            "optimizer": (controller_learning_rate, controller_weight_decay),
            "batches": 0,
        }
        self.__dict__["_held_out"] = _HeldOut()

    def controller_optimizer(self) -> torch.optim.Optimizer:
        """The controller's optimizer; return it from `configure_optimizers` after the student's."""
        learning_rate, weight_decay = self.__dict__["_tgeo"]["optimizer"]
        return torch.optim.Adam(self.controller.parameters(), learning_rate, weight_decay=weight_decay)

    def configure_callbacks(self) -> Any:
        """Refuse accumulation here, before Lightning does with a remedy that isn't one."""
        trainer = attached_trainer(self)
        if trainer is not None and trainer.accumulate_grad_batches != 1:
            raise ValueError(
                f"{type(self).__name__}: accumulate_grad_batches={trainer.accumulate_grad_batches} came, and TGeo-KD "
                "takes a step of student and controller on each batch; leave it at 1, and give larger batches."
            )
        return super().configure_callbacks()

    def objective_tensors(self, tensors: dict[str, Any]) -> dict[str, Any]:
        """Add the ratios, as constants, if the objective takes them."""
        tensors = super().objective_tensors(tensors)
        if self.objective.needs("ratio") and "ratio" not in tensors:
            with torch.no_grad():
                student, teacher = (
                    probabilities(full_precision(tensors[name])) for name in ("logits", "teacher_logits")
                )
                kept = labelled_rows(tensors["target"], *ignored_targets(self))
                state = tgeo_state(student, teacher, tensors["target"].masked_fill(~kept, 0), self.class_means)
                tensors["ratio"] = self.controller(state.to(self.class_means.dtype))
        return tensors

    def tgeo_step(self, batch: dict[str, Tensor]) -> dict[str, Any]:
        """One step of the controller and one of the student; without a trainer, the student's loss alone."""
        if attached_trainer(self) is None:
            return self.apply_objective(logits=self._student()(batch["inputs"]), **batch)
        settings = self.__dict__["_tgeo"]
        student, controller = self.optimizers()  # type: ignore[attr-defined]
        taught = {**batch, **self.teacher_tensors(batch)}
        if settings["batches"] % settings["every"] == 0:
            rate = settings["learning_rate"]
            held_out = self._next_held_out()
            gradients = self.controller_gradients(
                taught, held_out, learning_rate=student.param_groups[0]["lr"] if rate is None else rate
            )
            for name, parameter in self.controller.named_parameters():
                parameter.grad = gradients[name]
            # The plain optimizer: Lightning counts steps of its wrapper, and only the student's should count.
            controller.optimizer.step()
        settings["batches"] += 1
        output = self.apply_objective(logits=self._student()(batch["inputs"]), **taught)
        student.zero_grad()
        self.manual_backward(output["loss"])
        student.step()
        if (scheduler := self.lr_schedulers()) is not None:
            scheduler.step()  # type: ignore[union-attr]
        return {**output, "loss": output["loss"].detach()}

    def controller_gradients(
        self, taught: dict[str, Tensor], held_out: dict[str, Tensor], *, learning_rate: float
    ) -> dict[str, Float[Tensor, "..."]]:
        """The gradient, with respect to the controller's parameters, of the held-out loss after the copied step.

        Args:
            taught: the step's `inputs`, `target` and `teacher_logits`.
            held_out: `inputs` and `target` to evaluate on.
            learning_rate: learning rate of the copied step.

        Raises:
            ValueError: a student that is sharded.
        """
        network = self._student()
        if any(is_distributed_tensor(parameter) for parameter in network.parameters()):
            raise ValueError(f"{type(self).__name__}: TGeo-KD steps on whole weights; use DDP in place of FSDP2.")
        ignored = ignored_targets(self)
        kept, judged_by = (labelled_rows(one["target"], *ignored) for one in (taught, held_out))
        parameters = dict(self.controller.requires_grad_(True).named_parameters())
        try:
            outer = tgeo_outer_loss(
                network,
                self.controller,
                LabelledBatch(taught["inputs"], taught["target"].masked_fill(~kept, -100)),
                taught["teacher_logits"],
                self.class_means,
                LabelledBatch(held_out["inputs"], held_out["target"].masked_fill(~judged_by, -100)),
                learning_rate=learning_rate,
                temperature=self.__dict__["_tgeo"]["temperature"],
            )
            gradients = torch.autograd.grad(outer, list(parameters.values()))
        finally:
            self.controller.requires_grad_(False)
        judged = judged_by.sum()
        self.add_to_means(self.log_name("held_out_loss"), {"": outer}, {"": 1.0}, {"": judged})
        share = judged / all_processes(judged).clamp(min=1)
        averaged = (total_of_all(gradient * share.to(gradient)) for gradient in gradients)
        return dict(zip(parameters, averaged, strict=True))

    @torch.no_grad()
    def on_train_start(self) -> None:
        """Take the teacher's class means from one pass over the training set, unless they came from a checkpoint."""
        super().on_train_start()
        held_out_loader(type(self).__name__, self.trainer)
        # Another fit may have other data.
        self.__dict__["_held_out"] = _HeldOut()
        if self.__dict__["_tgeo"].pop("resumed", False):
            return
        # A count in half precision would stop at 256 (bfloat16).
        sums = torch.zeros_like(full_precision(self.class_means))
        counts = torch.zeros_like(sums[0])
        batch_size = getattr(self.trainer.train_dataloader, "batch_size", None)
        for batch in share_of_training_set(type(self).__name__, self.trainer, batch_size):
            batch = self.trainer.strategy.batch_to_device(batch)
            logits, target = self.teacher_tensors(batch)["teacher_logits"], batch["target"]
            kept = labelled_rows(target, *ignored_targets(self))
            more, seen = class_sums(full_precision(logits)[kept], target[kept])
            sums, counts = sums + more, counts + seen
        self.class_means.copy_(class_centroids(total_of_all(sums), total_of_all(counts), self.class_means))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the number of batches so far, which determines the next held-out batch."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["tgeo_batches"] = self.__dict__["_tgeo"]["batches"]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore it."""
        super().on_load_checkpoint(checkpoint)
        batches = checkpoint.get("tgeo_batches", 0)
        # A checkpoint of the start has no class means yet.
        self.__dict__["_tgeo"] |= {"batches": batches, "resumed": batches > 0}

    def _student(self) -> nn.Module:
        return self.get_submodule(self.__dict__["_tgeo"]["network"])

    def _next_held_out(self) -> dict[str, Tensor]:
        held_out: _HeldOut = self.__dict__["_held_out"]
        if held_out.batches is None:
            settings = self.__dict__["_tgeo"]
            loader = held_out_loader(type(self).__name__, self.trainer)
            taken = -(-settings["batches"] // settings["every"])
            held_out.batches = itertools.islice(_again_and_again(loader), taken % len(loader), None)
        batch: dict[str, Tensor] = self.trainer.strategy.batch_to_device(next(held_out.batches))
        return batch


class _HeldOut:
    """The batches that the controller is still to learn from; a copy of the module begins its own."""

    def __init__(self) -> None:
        self.batches: Iterator[Any] | None = None

    def __reduce__(self) -> Any:
        # An iterator can't be copied.
        return _HeldOut, ()


def _again_and_again(loader: DataLoader[Any]) -> Iterator[Any]:
    while True:
        yield from loader
