"""Watches how training would continue at other learning rates."""

import copy
import math
from collections.abc import Sequence
from dataclasses import field
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.seed import isolate_rng
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor
from torch.optim import Optimizer

from lightning_losses.callbacks.access import (
    on_device,
    refuse_hidden_gradients,
    refuse_place_before,
    sum_over_processes,
)
from lightning_losses.callbacks.declared import plain_copy
from lightning_losses.callbacks.interventions.grokfast import Grokfast
from lightning_losses.callbacks.interventions.orthogonal_gradient import OrthogonalGradient
from lightning_losses.callbacks.interventions.weight_norm_projection import WeightNormProjection
from lightning_losses.callbacks.monitors.monitor import Monitor
from lightning_losses.checkpoints.epoch_seed import EpochSeed
from lightning_losses.diagnostics.learning_rate_sensitivity import learning_rate_sensitivity
from lightning_losses.environment.lightning_internals import forget_mesh
from lightning_losses.environment.two_lightnings import is_named
from lightning_losses.mixins.training_means import TrainingMeans
from lightning_losses.numerics.checks import check_number
from lightning_losses.numerics.settings import Count
from lightning_losses.parallel.processes import total_of_all, world_size
from lightning_losses.parallel.sharding import unsharded_copy, whole
from lightning_losses.plots.connectivity import learning_rate_panels
from lightning_losses.plots.style import Figure


class LearningRateSensitivity(Monitor):
    """Logs the loss after a few steps at multiples of the learning rate, and which multiple is best.

    Every n steps it keeps the weights, the optimizer's state and the next batches. Once the run has trained on the
    batches of `trial_steps` steps, copies of the network start from the kept weights and train on the same batches,
    with the run's learning rates times each of the `multiples`. Then their training losses on the next batch, which
    none of them has seen, are compared. The copies get the same batches and random numbers as the run. Their gradients
    are accumulated, averaged over processes and clipped in the same way, and `OrthogonalGradient` and `Grokfast` act on
    them: with the multiple 1 a copy repeats the run. The run itself is untouched: its weights, optimizer, random
    numbers, logs and loader are the same as without this callback.

    It logs ``sensitivity``, the mean over the multiples of ``min(loss, before) - lowest loss``; ``best_multiple``,
    which is 0 if every trial ends above ``before``, the loss of the kept weights; and the ``loss`` of each multiple. A
    few steps favour learning rates that are too low for a whole training (Wu et al., 2018). So the numbers say how near
    a run is to instability, not which learning rate to choose; for that use ``recipes/compare.py`` with
    `learning_rates`. In a trial, teachers that follow the student are constant, and effects of other callbacks on
    gradients or weights are not repeated.

    Cost: every n steps, for each multiple, `trial_steps` training steps, one more forward pass and a copy of the module
    (one at a time); meanwhile a copy of the weights, of the optimizer's state and of `trial_steps` batches. With one
    process the checkpoint keeps these copies, so that a resumed run measures the same as an uninterrupted one. With
    several processes, a run that is resumed between such a step and its trials omits that measurement. Under FSDP2 each
    process holds a whole copy.

    Args:
        multiples: factors of the learning rate: at least two different numbers above 0.
        trial_steps: optimizer steps of a trial, at most `every_n_steps`.
        every_n_steps, folder: see `Monitor`.

    Raises:
        ValueError: settings out of range; in training, steps that can't be repeated: manual optimization (and so
            several optimizers), float16 AMP, an `optimizer_step` of the module's own, `WeightNormProjection`, DeepSpeed
            or FSDP1; a module that can't be copied, or whose optimizer holds parameters that are not the module's.

    Source:
        The measure: Wortsman et al., 2023, "Small-scale Proxies for Large-scale Transformer Training Instabilities",
        arXiv:2309.14322, which defines it over whole trainings, as `diagnostics.learning_rate_sensitivity` does; here
        it is over a few steps from the present weights. The limits of that: Wu, Ren, Liao, Grosse, 2018, "Understanding
        Short-Horizon Bias in Stochastic Meta-Optimization", arXiv:1803.02021.

    Example:
        >>> LearningRateSensitivity(multiples=[0.5, 1, 2], trial_steps=10, every_n_steps=500).multiples
        (0.5, 1.0, 2.0)
    """

    name = "learning_rate_sensitivity"
    every_n_steps = 100

    multiples: Sequence[float] = (0.1, 0.3, 1.0, 3.0, 10.0)
    trial_steps: Count = 5
    # Plain values and tensors only, because checkpoints hold it.
    _window: dict[str, Any] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self.name, "trial_steps", self.trial_steps, most=self.every_n_steps)
        given, self.multiples = self.multiples, tuple(sorted(float(multiple) for multiple in self.multiples))
        in_range = all(0 < multiple < math.inf for multiple in self.multiples)
        if len(set(self.multiples)) != len(self.multiples) or len(self.multiples) < 2 or not in_range:
            raise ValueError(f"{self.name}: multiples={list(given)} came; give two or more different ones above 0.")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse training whose steps can't be repeated."""
        refuse_hidden_gradients(self.name, trainer)
        refuse_place_before(trainer, self, EpochSeed)
        reasons = {
            "optimizes manually": not pl_module.automatic_optimization,
            "has an optimizer_step of its own": is_overridden("optimizer_step", pl_module),
            "trains under float16 AMP": getattr(trainer.precision_plugin, "scaler", None) is not None,
            "trains with WeightNormProjection": any(
                isinstance(other, WeightNormProjection)
                for other in trainer.callbacks  # type: ignore[attr-defined]
            ),
        }
        for reason, holds in reasons.items():
            if holds:
                raise ValueError(
                    f"{self.name}: {type(pl_module).__name__} {reason}, which can't be repeated on a copy."
                )
        if world_size() > 1:
            # No checkpoint holds the other processes' batches.
            self._window = None

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Run the trials once their batches have come; begin to keep batches, when due."""
        step = trainer.global_step
        if self._window is not None and step == self._window["step"] + self.trial_steps:
            window, self._window = self._window, None
            with isolate_rng():
                self._measure(trainer, pl_module, window, self._seen(trainer, pl_module, batch, batch_idx))
        if self._window is None and self.due(step):
            optimizer = trainer.optimizers[0].state_dict()
            callbacks: list[Any] = list(trainer.callbacks)  # type: ignore[attr-defined]
            self._window = {
                "step": step,
                "weights": _kept(pl_module.state_dict()),
                "optimizer": _kept(optimizer),
                "averages": _kept([callback.state_dict() for callback in callbacks if isinstance(callback, Grokfast)]),
                "batches": [],
            }
        if self._window is not None:
            self._window["batches"].append(self._seen(trainer, pl_module, batch, batch_idx))

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Free the device's memory."""
        self._window = apply_to_collection(self._window, Tensor, Tensor.cpu)

    def figure(self) -> Figure:
        """The sensitivity and the gain of each multiple over steps."""
        losses = [
            [self.values[f"loss/{multiple:g}"][at] for multiple in self.multiples] for at in range(len(self.steps))
        ]
        return learning_rate_panels(
            self.steps, self.values["sensitivity"], self.multiples, losses, self.values["before"]
        )

    def state_dict(self) -> dict[str, Any]:
        """The measurements and, with one process, the copies kept for coming trials."""
        kept = self._window if world_size() == 1 and _is_plain(self._window) else None
        return {**super().state_dict(), "window": plain_copy(kept)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state from a checkpoint."""
        super().load_state_dict(state_dict)
        self._window = plain_copy(state_dict["window"])

    def _seen(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> dict[str, Any]:
        """A batch, and everything else that the step depends on besides weights and optimizer."""
        groups = [
            {name: value for name, value in group.items() if name != "params"}
            for group in trainer.optimizers[0].param_groups
        ]
        random = {"host": torch.get_rng_state()}
        if pl_module.device.type == "cuda":
            random["device"] = torch.cuda.get_rng_state(pl_module.device)
        return {
            "batch": _kept(batch),
            "number": batch_idx,
            "step": trainer.global_step,
            "epoch": trainer.current_epoch,
            "groups": copy.deepcopy(groups),
            "random": random,
        }

    def _measure(
        self, trainer: L.Trainer, pl_module: L.LightningModule, window: dict[str, Any], unseen: dict[str, Any]
    ) -> None:
        origin = _copy(self.name, pl_module)
        before = self._trial(trainer, origin, window, unseen, None)
        losses = [self._trial(trainer, origin, window, unseen, multiple) for multiple in self.multiples]
        reached = [loss if loss < before else before for loss in losses]
        lowest = min(reached)
        values = {
            "sensitivity": learning_rate_sensitivity(losses, before),
            "best_multiple": self.multiples[reached.index(lowest)] if lowest < before else 0.0,
            "before": before,
            **{f"loss/{multiple:g}": loss for multiple, loss in zip(self.multiples, losses, strict=True)},
        }
        self.record(trainer, window["step"], values)

    def _trial(
        self,
        trainer: L.Trainer,
        origin: L.LightningModule,
        window: dict[str, Any],
        unseen: dict[str, Any],
        multiple: float | None,
    ) -> float:
        """The loss on an unseen batch after steps with a multiple of their learning rates; None: before any step."""
        module = copy.deepcopy(origin)
        module.load_state_dict(window["weights"])
        with _Placed(module, trainer) as place:
            if multiple is not None:
                self._train(trainer, module, place, window, multiple)
            place.move_to(unseen)
            with trainer.precision_plugin.train_step_context():
                loss = _loss(self.name, module.training_step(*_arguments(module, unseen)))
        total = sum_over_processes(trainer, on_device(trainer, loss.detach().double()))
        return float(total) / trainer.world_size

    def _train(
        self, trainer: L.Trainer, module: L.LightningModule, place: "_Placed", window: dict[str, Any], multiple: float
    ) -> None:
        place.move_to(window["batches"][0])
        optimizer = _first_optimizer(module.configure_optimizers())
        own = {id(parameter) for parameter in module.parameters()}
        if any(id(parameter) not in own for group in optimizer.param_groups for parameter in group["params"]):
            raise ValueError(
                f"{self.name}: the optimizer of a copy of {type(module).__name__} holds parameters of the original; "
                "make it of self.parameters() in configure_optimizers."
            )
        place.optimizers = [optimizer]
        # A copy, because the optimizer changes the loaded state in place.
        optimizer.load_state_dict(copy.deepcopy(window["optimizer"]))
        twins = _twins(trainer, module, window["averages"])
        for step in range(window["step"], window["step"] + self.trial_steps):
            seen = [one for one in window["batches"] if one["step"] == step]
            # An epoch's last accumulation window may be short; the mixins divide by its true length, Lightning doesn't.
            parts = len(seen) if isinstance(module, TrainingMeans) else trainer.accumulate_grad_batches
            for group, options in zip(optimizer.param_groups, seen[0]["groups"], strict=True):
                group.update(copy.deepcopy(options))
                group["lr"] = group["lr"] * multiple

            def closure(seen: list[dict[str, Any]] = seen, parts: int = parts) -> Tensor:
                optimizer.zero_grad()
                loss = torch.zeros(())
                for one in seen:
                    place.move_to(one)
                    with trainer.precision_plugin.train_step_context():
                        loss = _loss(self.name, module.training_step(*_arguments(module, one)))
                    module.backward(loss / parts)
                    module.on_after_backward()
                _average_gradients(module)
                for twin in twins:
                    twin.on_before_optimizer_step(trainer, module, optimizer)
                module.on_before_optimizer_step(optimizer)
                module.configure_gradient_clipping(
                    optimizer, trainer.gradient_clip_val, trainer.gradient_clip_algorithm
                )
                return loss.detach()

            optimizer.step(closure)  # type: ignore[arg-type]


class _Placed:
    """Within this context a module sees the trainer at an earlier step, and logs nothing."""

    def __init__(self, module: L.LightningModule, trainer: L.Trainer) -> None:
        self._module = module
        self._outer = trainer
        self.global_step = trainer.global_step
        self.current_epoch = trainer.current_epoch
        self.optimizers: list[Optimizer] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._outer, name)

    def __enter__(self) -> "_Placed":
        self._module.trainer = self  # type: ignore[assignment]
        for part in self._module.modules():
            if is_named(part, "LightningModule"):
                part.__dict__["log"] = part.__dict__["log_dict"] = lambda *given, **options: None
        return self

    def __exit__(self, *error: object) -> None:
        self._module.trainer = None

    def move_to(self, seen: dict[str, Any]) -> None:
        """Move to the step at which the run saw a batch."""
        self.global_step, self.current_epoch = seen["step"], seen["epoch"]
        torch.set_rng_state(seen["random"]["host"].cpu())
        if "device" in seen["random"]:
            torch.cuda.set_rng_state(seen["random"]["device"].cpu(), self._module.device)


def _kept(node: Any) -> Any:
    """Unsharded copies of all tensors."""
    return apply_to_collection(node, Tensor, lambda tensor: whole(tensor.detach()).clone())


def _copy(who: str, module: L.LightningModule) -> L.LightningModule:
    """A copy of a module that shares nothing with it and has no trainer."""
    made: Any = unsharded_copy(module)
    forget_mesh(made)
    try:
        return copy.deepcopy(made)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"{who}: {type(module).__name__} can't be copied ({error}).") from None


def _arguments(module: L.LightningModule, seen: dict[str, Any]) -> tuple[Any, int]:
    # A step may change its batch in place.
    return move_data_to_device(_kept(seen["batch"]), module.device), seen["number"]


def _loss(who: str, output: Any) -> Tensor:
    loss = output.get("loss") if isinstance(output, dict) else output
    if not isinstance(loss, Tensor):
        raise ValueError(f"{who}: the training step returned no loss; return a tensor or {{'loss': tensor}}.")
    return loss


def _first_optimizer(made: Any) -> Optimizer:
    while not isinstance(made, Optimizer):
        made = made["optimizer"] if isinstance(made, dict) else made[0]
    return made


def _twins(
    trainer: L.Trainer, module: L.LightningModule, averages: list[dict[str, Any]]
) -> list[OrthogonalGradient | Grokfast]:
    """Copies of the callbacks that change the run's gradients, with their averages, for a copy of its module."""
    found, states = [], iter(averages)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, OrthogonalGradient | Grokfast):
            twin = copy.copy(callback)
            if isinstance(twin, Grokfast):
                twin.filter = copy.deepcopy(twin.filter)
                twin.load_state_dict(copy.deepcopy(next(states)))
            twin.on_train_start(trainer, module)
            found.append(twin)
    return found


def _average_gradients(module: torch.nn.Module) -> None:
    """Average gradients as DDP does: over all processes, a missing gradient counting as 0."""
    if world_size() == 1:
        return
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    there = torch.tensor([float(parameter.grad is not None) for parameter in parameters], device=parameters[0].device)
    for parameter, holders in zip(parameters, total_of_all(there).tolist(), strict=True):
        if holders:
            own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            parameter.grad = total_of_all(own) / world_size()


def _is_plain(node: Any) -> bool:
    """Whether a value can be loaded from a checkpoint without unpickling."""
    if isinstance(node, dict):
        return all(_is_plain(key) and _is_plain(value) for key, value in node.items())
    if type(node) in (list, tuple):
        return all(map(_is_plain, node))
    return node is None or type(node) in (bool, int, float, str, Tensor)
