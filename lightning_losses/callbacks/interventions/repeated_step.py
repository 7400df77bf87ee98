"""The batches of one optimizer step, whose gradient can be taken again at other weights."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import ParallelStrategy, Strategy
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer
from torchmetrics import Metric

from lightning_losses.environment.lightning_internals import note_running_hook, running_hook
from lightning_losses.environment.random_states import RandomStates
from lightning_losses.environment.repeated_batch import RepeatedBatch, running
from lightning_losses.optim.perturbation import norm_of
from lightning_losses.parallel.processes import maximum_of_all
from lightning_losses.parallel.sharding import local_part

Gradients = dict[str, Tensor]
# What a pass takes the gradient of: a scalar of the training step's output and the batch's number in the step.
Value = Callable[[Any, int], Tensor]
Buffers = dict[str, Tensor | None]


@dataclass(eq=False)
class SeenBatch:
    """A batch as its first pass found it.

    Attributes:
        arguments: those of the training step.
        random: the generators' states when the step began.
        buffers: the module's buffers then, by name; None where there was none yet.
        batches: of the optimizer step, by which the batch's loss is divided.
        noted: what the callback kept of the first pass's output.
    """

    arguments: tuple[Any, ...]
    random: RandomStates
    buffers: Buffers
    batches: int
    batch: RepeatedBatch = field(default_factory=RepeatedBatch)
    noted: Any = None


def seen(module: L.LightningModule, arguments: tuple[Any, ...], batches: int) -> SeenBatch:
    """A batch before its first pass; the copy is shallow, for steps that take items out of it."""
    first, *others = arguments
    return SeenBatch((copy.copy(first), *others), RandomStates.now(module.device), _buffers(module), batches)


class RepeatedStep:
    """The batches of one optimizer step after their backward passes, and the gradients that these left.

    Args:
        trainer: whose strategy and precision run the passes.
        module: the module of the step.
        optimizer: whose gradients are meant.
        batches: in their order.
        training_step: the strategy's own.

    Attributes:
        weights: the optimizer's parameters, by name; a pass need not reach all of them.
        noted: what the callback kept of each batch's first pass, in their order.
    """

    def __init__(
        self,
        trainer: L.Trainer,
        module: L.LightningModule,
        optimizer: Optimizer,
        batches: Sequence[SeenBatch],
        training_step: Callable[..., Any],
    ) -> None:
        self.trainer, self._module, self._optimizer = trainer, module, optimizer
        self._batches, self._training_step = batches, training_step
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        self.weights: dict[str, nn.Parameter] = {
            name: parameter for name, parameter in module.named_parameters() if id(parameter) in held
        }
        self.noted = [batch.noted for batch in batches]
        # Where gradients are views of DDP's buckets, each pass writes over the last one's.
        self._in_buckets: bool = getattr(trainer.strategy.model, "gradient_as_bucket_view", False)
        self._scaler: torch.amp.GradScaler | None = getattr(trainer.precision_plugin, "scaler", None)
        # Of the passes before the last; 0, or no number.
        self._overflows: list[Tensor] = []

    def gradients(self) -> Gradients:
        """The gradients of the last pass, by name: averaged over processes, and without a loss scale."""
        gradients = {name: weight.grad for name, weight in self.weights.items() if weight.grad is not None}
        return {name: part.clone() for name, part in gradients.items()} if self._in_buckets else gradients

    def repeat(self, value: Value | None = None) -> Gradients:
        """Run the step's batches at the weights as they are, and leave and return the gradients.

        Args:
            value: what to take the gradient of instead of the loss.
        """
        if self._scaler is not None:
            self._overflows.append(0.0 * norm_of(self.gradients()))
        for weight in self.weights.values():
            weight.grad = None
        for number, seen_batch in enumerate(self._batches):
            self._pass(number, seen_batch, value)
        if self._scaler is not None:
            torch._foreach_mul_(self._parts(), self._scale().double().reciprocal().float())
        return self.gradients()

    def leave(self, gradients: Mapping[str, Tensor]) -> None:
        """Let these be the step's gradients."""
        for name, gradient in gradients.items():
            self.weights[name].grad = gradient

    def finish(self) -> None:
        """Have AMP's scaler judge the gradients as they are now; it judged the first pass's before."""
        if self._scaler is None or not self._overflows:
            return
        scale, parts = self._scale(), self._parts()
        # Exact for a power of 2, as scales are. The scaler looks while it unscales, once between two updates.
        torch._foreach_mul_(parts, scale)
        # Processes that climb alone must skip a step together.
        overflow = maximum_of_all(torch.stack(self._overflows).sum().isnan().to(torch.float32))
        # A shard may have no elements.
        for part in [part for part in parts if part.numel()][:1]:
            part.add_(torch.where(overflow > 0, torch.inf, 0.0).to(part))
        self._scaler.update(new_scale=scale)
        self._scaler.unscale_(self._optimizer)

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Within this context passes leave no trace: in buffers, metrics, logs, generators or others' gradients."""
        module = self._module
        hook, random = running_hook(module), RandomStates.now(module.device)
        buffers = _buffers(module)
        others = {p: p.grad for name, p in module.named_parameters() if name not in self.weights}
        for parameter in others:
            # Backward passes would add to it in place.
            parameter.grad = None
        metrics = [(part, _metric_state(part)) for part in module.modules() if isinstance(part, Metric)]
        logs = ("log", "log_dict")
        module.__dict__.update(dict.fromkeys(logs, _log_nothing))
        try:
            yield
        finally:
            for name in logs:
                del module.__dict__[name]
            for metric, state in metrics:
                vars(metric).update(state)
            for parameter, gradient in others.items():
                parameter.grad = gradient
            _put_buffers(module, buffers)
            random.restore()
            note_running_hook(module, hook or "on_before_optimizer_step")

    def _pass(self, number: int, seen_batch: SeenBatch, value: Value | None) -> None:
        module, strategy = self._module, self.trainer.strategy
        last = number + 1 == len(self._batches)
        again = RepeatedBatch(again=True, last=last, read=seen_batch.batch.read)
        seen_batch.random.restore()
        _put_buffers(module, seen_batch.buffers)
        with ExitStack() as stack:
            stack.enter_context(running(module, again))
            stack.enter_context(torch.enable_grad())
            if not last:
                stack.enter_context(not_averaged(strategy))
            note_running_hook(module, "training_step")
            first, *others = seen_batch.arguments
            output = self._training_step(copy.copy(first), *others)
            loss = _loss(output) / seen_batch.batches
            if value is not None:
                # With the loss, so that no parameter lacks a gradient that other processes wait for.
                loss = value(output, number) + 0.0 * loss
            note_running_hook(module, "backward")
            loss = loss if self._scaler is None else self._scaler.scale(loss)
            self.trainer.precision_plugin.backward(loss, module, self._optimizer)
            note_running_hook(module, "on_after_backward")
            module.on_after_backward()

    def _parts(self) -> list[Tensor]:
        return [local_part(weight.grad) for weight in self.weights.values() if weight.grad is not None]

    def _scale(self) -> Tensor:
        assert self._scaler is not None
        return self._scaler.scale(torch.ones((), device=self._module.device))


def not_averaged(strategy: Strategy) -> AbstractContextManager[Any]:
    """Within this context DDP's passes leave each process its own gradient; elsewhere it is nothing."""
    return strategy.block_backward_sync() if isinstance(strategy, ParallelStrategy) else nullcontext()


def _loss(output: Any) -> Tensor:
    loss: Tensor = output["loss"] if isinstance(output, Mapping) else output
    return loss


def _log_nothing(*arguments: Any, **options: Any) -> None:
    """In the place of the module's `log`: the first pass has logged."""


def _buffers(module: nn.Module) -> Buffers:
    """Copies of all buffers; those of lazy layers come with their first batch."""
    return {
        name: None if buffer is None else buffer.clone()
        for name, _, _, buffer in _named_buffers(module)
        if buffer is None or not is_lazy(buffer)
    }


def _put_buffers(module: nn.Module, values: Buffers) -> None:
    with torch.no_grad():
        for name, part, own, buffer in _named_buffers(module):
            if name not in values:
                continue
            value = values[name]
            if buffer is None or value is None or buffer.shape != value.shape or buffer.dtype != value.dtype:
                # A step may grow a buffer, or begin one.
                part._buffers[own] = None if value is None else value.clone()
            else:
                buffer.copy_(value)


def _named_buffers(module: nn.Module) -> Iterator[tuple[str, nn.Module, str, Tensor | None]]:
    """Every buffer's name, the part that has it, its name there, and the buffer, which may be None."""
    for path, part in module.named_modules():
        for own, buffer in list(part._buffers.items()):
            yield f"{path}.{own}", part, own, buffer


def _metric_state(metric: Metric) -> dict[str, Any]:
    """A metric's attributes, with copies of the state that it updates in place."""
    copies = {
        name: value.clone() if isinstance(value, Tensor) else copy.copy(value)
        for name, value in metric.metric_state.items()
    }
    return {**vars(metric), **copies}
