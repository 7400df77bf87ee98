"""What callbacks share: gradients by name, sums over processes, checks of folders and of their order in the list."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch
from jaxtyping import Float, Int
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_losses.environment.writable_folder import check_writable
from lightning_losses.numerics.rows import class_indices, labelled_rows
from lightning_losses.objective.ignored_targets import ignored_targets
from lightning_losses.parallel.sharding import refuse_flat_parameters


def gradients_of(parameters: Mapping[str, nn.Parameter], optimizer: Optimizer | None = None) -> dict[str, Tensor]:
    """The existing gradients, by parameter name; only of the optimizer's parameters, if an optimizer is given."""
    held = None if optimizer is None else {id(p) for group in optimizer.param_groups for p in group["params"]}
    return {
        name: parameter.grad
        for name, parameter in parameters.items()
        if parameter.grad is not None and (held is None or id(parameter) in held)
    }


def skipped_by_amp(optimizer: Optimizer) -> bool:
    """Whether a fused optimizer's present step changes nothing, since AMP's scaler found gradients that overflowed.

    Other optimizers are not called for such a step, and no hook of theirs is.
    """
    found_inf = getattr(optimizer, "found_inf", None)
    return found_inf is not None and bool(found_inf)


def refuse_hidden_gradients(who: str, trainer: L.Trainer) -> None:
    """Raise ``ValueError`` under strategies that don't show whole gradients to callbacks."""
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


def refuse_unwritable(trainer: L.Trainer, folder: Path) -> None:
    """Raise ``OSError``, on every process, where the first one can't write into a folder."""
    failure: tuple[int | None, str, str] | None = None
    if trainer.is_global_zero:
        try:
            check_writable(folder)
        except OSError as error:
            failure = error.errno, error.strerror or str(error), str(error.filename or folder)
    failure = trainer.strategy.broadcast(failure)
    if failure is not None:
        raise OSError(*failure)


def refuse_place_after(
    trainer: L.Trainer, callback: Callback, *others: type[Callback], reason: str = "which changes what it measures"
) -> None:
    """Raise ``ValueError`` if a callback comes after one of these kinds in the trainer's list."""
    for other in _beside(trainer, callback)[0]:
        if isinstance(other, others):
            raise ValueError(
                f"{type(callback).__name__}: it comes after {type(other).__name__} in the trainer's callbacks, "
                f"{reason}; put it before."
            )


def refuse_place_before(
    trainer: L.Trainer,
    callback: Callback,
    *others: type[Callback],
    reason: str = "and would record random numbers that the step doesn't draw",
) -> None:
    """Raise ``ValueError`` if a callback comes before one of these kinds; the default reason is for reseeding."""
    for other in _beside(trainer, callback)[1]:
        if isinstance(other, others):
            raise ValueError(
                f"{type(callback).__name__}: it comes before {type(other).__name__} in the trainer's callbacks, "
                f"{reason}; put it after."
            )


def _beside(trainer: L.Trainer, callback: Callback) -> tuple[list[Any], list[Any]]:
    """The callbacks before and after one of the trainer's; none of one that isn't, such as a trial's copy."""
    callbacks: list[Any] = list(trainer.callbacks)  # type: ignore[attr-defined]
    place = next((place for place, other in enumerate(callbacks) if other is callback), None)
    return ([], []) if place is None else (callbacks[:place], callbacks[place + 1 :])


def step_logits(
    who: str, module: nn.Module, outputs: Any, ignore_index: int | None = None
) -> tuple[Float[Tensor, "kept classes"], Int[Tensor, " kept"]]:
    """The logits and class indices, without gradient, of the kept samples in a training step's output.

    Args:
        who: the name that errors begin with.
        module: the module of the step; `ignored_targets` reads which targets it ignores.
        outputs: what the step returned.
        ignore_index: the callback's setting of the ignored target, if any.

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
        # A task without classes, such as a regression, ignores no sample.
        rows = logits.reshape(-1, 1)
        return rows, torch.zeros_like(rows[:, 0], dtype=torch.int64)
    kept = labelled_rows(target, *ignored_targets(module, ignore_index))
    return logits[kept], class_indices(target[kept])


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Within this context every submodule is in evaluation mode; afterwards modes and random states are as before."""
    modes = [(part, part.training) for part in module.modules()]
    devices = {parameter.device for parameter in module.parameters() if parameter.device.type == "cuda"}
    module.eval()
    try:
        # The network may draw, and so does a loader where it begins.
        with torch.random.fork_rng(devices=sorted(devices, key=str)):
            yield
    finally:
        for part, training in modes:
            part.training = training


def on_device(trainer: L.Trainer, values: Any) -> Tensor:
    """Numbers as a tensor on the training device, in float64 if the device has it, so that counts are exact."""
    device = trainer.strategy.root_device
    return torch.as_tensor(values, dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)
