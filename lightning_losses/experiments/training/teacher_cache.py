"""Evaluates a recipe's teacher once on all of the student's training inputs, instead of at every step."""

from pathlib import Path
from typing import Any

from torch import nn

from lightning_losses.experiments.training.training import Training
from lightning_losses.teachers import MappedLogits, load_cached_teacher
from lightning_losses.teachers.cache_teacher import cache_teacher
from lightning_losses.teachers.feature_taps import layers_to_tap


def check_cache(student: Training, kept: str | int) -> None:
    """Raise ``ValueError`` if `cached_teacher` can't work: another `kept`, or data other than images in memory."""
    if kept != "full" and (not isinstance(kept, int) or isinstance(kept, bool) or kept < 1):
        raise ValueError(f"teacher_cache={kept!r} came; give full, a number of logits to keep, or null.")
    classes = getattr(student.datamodule, "num_classes", None)
    if isinstance(kept, int) and classes is not None and kept > classes:
        raise ValueError(f"teacher_cache={kept} came for {classes} classes; give at most {classes}, or full.")
    if not hasattr(student.datamodule, "views_of_train"):
        name = type(student.datamodule).__name__
        raise ValueError(f"teacher_cache: {name} has no positions to keep logits by; set it to null.")


def cached_teacher(
    teacher: nn.Module, student: Training, folder: Path, *, kept: str | int, temperature: float = 1.0
) -> MappedLogits:
    """The teacher's logits on all views of the student's training split, and its features where the objective asks.

    Args:
        teacher: the trained network.
        student: its data and objective determine the cached outputs.
        folder: of all caches; an existing cache is not made again.
        kept: "full" for all logits, or how many of the largest of each sample.
        temperature: at which the mass of the other logits is exact.

    Raises:
        ValueError: as `check_cache`.
    """
    check_cache(student, kept)
    data: Any = student.datamodule
    module: Any = student.build(teacher)
    features = module.objective.needs("teacher_features") or module.objective.needs("teacher_feature_maps")
    layers = layers_to_tap(teacher, module.teacher_layer) if features else []
    path = cache_teacher(
        teacher,
        data.train if data.views_of_train is None else data.views_of_train,
        folder,
        top_k=None if kept == "full" else int(kept),
        temperature=temperature,
        layers=layers,
    )
    return load_cached_teacher(path)
