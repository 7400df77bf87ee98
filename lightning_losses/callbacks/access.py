"""What callbacks share: gradients by name, sums over processes, checks of their order in the trainer's list."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from jaxtyping import Float, Int
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_losses.numerics.rows import class_indices, labelled_rows
from lightning_losses.objective.ignored_targets import ignored_targets
from lightning_losses.parallel.sharding import refuse_flat_parameters


def gradients_of(parameters: Mapping[str, nn.Parameter], optimizer: Optimizer | None = None) -> dict[str, Tensor]:
    """The gradients there are, by parameter name; of the parameters that an optimizer holds, if one is given."""
    held = None if optimizer is None else {id(p) for group in optimizer.param_groups for p in group["params"]}
    return {
        name: parameter.grad
        for name, parameter in parameters.items()
        if parameter.grad is not None and (held is None or id(parameter) in held)
    }


def refuse_hidden_gradients(who: str, trainer: L.Trainer) -> None:
    """Raise ``ValueError`` under strategies whose gradients callbacks can't see whole."""
    if any(kind.__name__ == "DeepSpeedStrategy" for kind in type(trainer.strategy).__mro__):
        raise ValueError(
            f"{who}: callbacks can't see gradients under DeepSpeed; use DDP or FSDP2 (ModelParallelStrategy)."
        )
    assert trainer.strategy.model is not None
    refuse_flat_parameters(who, trainer.strategy.model.modules())


def sum_over_processes(trainer: L.Trainer, values: Tensor) -> Tensor:
    """The sum of a tensor over the trainer's processes."""
    total = trainer.strategy.reduce(values, reduce_op="sum")
    assert isinstance(total, Tensor)
    return total


def refuse_place_after(trainer: L.Trainer, callback: Callback, *others: type[Callback]) -> None:
    """Raise ``ValueError`` if a callback stands behind one of these in the trainer's list."""
    callbacks: list[Any] = list(trainer.callbacks)  # type: ignore[attr-defined]
    for other in callbacks[: callbacks.index(callback)]:
        if isinstance(other, others):
            raise ValueError(
                f"{type(callback).__name__}: it stands after {type(other).__name__} in the trainer's callbacks, which "
                "changes what it measures; put it before."
            )


def refuse_place_before(trainer: L.Trainer, callback: Callback, *others: type[Callback]) -> None:
    """Raise ``ValueError`` if a callback stands before one of these, which draw its random numbers anew."""
    callbacks: list[Any] = list(trainer.callbacks)  # type: ignore[attr-defined]
    for other in callbacks[callbacks.index(callback) + 1 :]:
        if isinstance(other, others):
            raise ValueError(
                f"{type(callback).__name__}: it stands before {type(other).__name__} in the trainer's callbacks, and "
                "would note random numbers that the step doesn't draw; put it after."
            )


def step_logits(
    who: str, module: nn.Module, outputs: Any, ignore_index: int | None = None
) -> tuple[Float[Tensor, "kept classes"], Int[Tensor, " kept"]]:
    """The logits and class indices of the samples that count, of what a training step returned, without gradient.

    Args:
        who: the name that errors begin with.
        module: whose step it is; `ignored_targets` asks it which samples are ignored.
        outputs: of the step.
        ignore_index: the target of those samples, if the callback was told.

    Raises:
        ValueError: a step that returns no "logits" and "target".
    """
    if not isinstance(outputs, Mapping) or not {"logits", "target"} <= set(outputs):
        raise ValueError(
            f"{who}: the training step returned no 'logits' and 'target'; return "
            '{"loss": loss, "logits": logits, "target": target}.'
        )
    logits, target = outputs["logits"].detach(), outputs["target"].detach()
    if logits.shape[-1] == 1:
        # What has no classes, such as a regression, ignores no sample.
        rows = logits.reshape(-1, 1)
        return rows, torch.zeros_like(rows[:, 0], dtype=torch.int64)
    kept = labelled_rows(target, *ignored_targets(module, ignore_index))
    return logits[kept], class_indices(target[kept])


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Within this context every part of a module is in evaluation mode; then each is as before."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def on_device(trainer: L.Trainer, values: Any) -> Tensor:
    """Numbers as a tensor on the training device, in a precision that counts exactly where the device has one."""
    device = trainer.strategy.root_device
    return torch.as_tensor(values, dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)
