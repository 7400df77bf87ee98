"""The states that differ between processes within an epoch; the first process's checkpoint holds all of them."""

from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn

from lightning_losses.environment.lightning_internals import epoch_results
from lightning_losses.parallel.processes import values_on_first


def first_process() -> bool:
    """Whether this is the process that writes files."""
    return not getattr(rank_zero_only, "rank", 0)


def add_process_states(checkpoint: dict[str, Any], logged: dict[str, Any]) -> None:
    """Add for each process its logged values, its loaders' positions, and its callbacks' states if they differ."""
    own = {"logged": logged, "loaders": _loop(checkpoint).get("combined_loader"), "callbacks": checkpoint["callbacks"]}
    states = values_on_first(move_data_to_device(own, "cpu"))
    for state in states[::-1]:
        first = states[0]["callbacks"]
        state["callbacks"] = {
            name: value for name, value in state["callbacks"].items() if not same(value, first.get(name))
        }
    checkpoint["process_states"] = states


def complete_epoch(checkpoint: dict[str, Any]) -> None:
    """Count an epoch as done while it ends, like a checkpoint written after it."""
    progress = checkpoint["loops"]["fit_loop"]["epoch_progress"]
    for counts in progress.values():
        counts["completed"] = counts["processed"]


def take_process_states(checkpoint: dict[str, Any], trainer: L.Trainer) -> dict[str, Any]:
    """Put this process's states where Lightning reads them; returns its logged values."""
    states = checkpoint.get("process_states", [])
    if not states:
        return {}
    if len(states) != trainer.world_size:
        rank_zero_warn(
            f"last_checkpoint: {len(states)} processes wrote this checkpoint within an epoch, and {trainer.world_size} "
            "continue: the rest of the epoch draws other random numbers and is logged anew."
        )
        return {}
    own = states[trainer.global_rank]
    checkpoint["callbacks"].update(own["callbacks"])
    if own["loaders"] is not None:
        _loop(checkpoint)["combined_loader"] = own["loaders"]
    logged: dict[str, Any] = own["logged"]
    return logged


def logged_values(trainer: L.Trainer) -> dict[str, Any]:
    """The sums so far of values that are logged at the unfinished epoch's end, by Lightning's keys.

    Metric objects are left out, because they keep their own states.
    """
    return {
        key: {"value": result.value, "weight": getattr(result, "cumulated_batch_size", None)}
        for key, result in epoch_results(trainer).items()
        if result.is_tensor and result.meta.on_epoch and not result.has_reset
    }


def add_logged_values(trainer: L.Trainer, saved: dict[str, Any]) -> None:
    """Add values logged before an interruption once a step has logged them again, and remove them from `saved`."""
    for key, result in epoch_results(trainer).items():
        if key not in saved:
            continue
        before = saved.pop(key)
        value, meta = before["value"].to(result.value.device), result.meta
        if meta.is_max_reduction or meta.is_min_reduction:
            result.value = meta.reduce_fx(value, result.value)
        else:
            result.value = value + result.value
        if before["weight"] is not None:
            weight = result.cumulated_batch_size
            result.cumulated_batch_size = before["weight"].to(weight.device) + weight


def same(one: Any, other: Any) -> bool:
    """Whether two plain values are equal, with bitwise equality of tensors.

    Example:
        >>> same({"sums": [torch.ones(2), None]}, {"sums": [torch.ones(2), None]})
        True
        >>> same({"sums": torch.ones(2)}, {"sums": torch.zeros(2)})
        False
    """
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[name]) for name, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def _loop(checkpoint: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = checkpoint["loops"]["fit_loop"]["state_dict"]
    return found
