"""What a begun epoch has logged: Lightning's checkpoints leave it out."""

from typing import Any

import lightning as L

from lightning_losses.environment.lightning_internals import epoch_results


def logged_values(trainer: L.Trainer) -> dict[str, Any]:
    """What the training steps of a begun epoch added up of the values to log at its end, by Lightning's keys.

    Metric objects are left out; they keep their own states.
    """
    return {
        key: {"value": result.value, "weight": getattr(result, "cumulated_batch_size", None)}
        for key, result in epoch_results(trainer).items()
        if result.is_tensor and result.meta.on_epoch and not result.has_reset
    }


def add_logged_values(trainer: L.Trainer, saved: dict[str, Any]) -> None:
    """Add what was logged before an interruption, and take it from `saved`, where a step has logged the same again."""
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
