"""How many samples of a data set each class has, without loading inputs where the data set holds its targets."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from lightning_losses.data.seeded_views import SeededViews
from lightning_losses.numerics.rows import labelled_rows

# Under these names data sets hold the targets of all their samples: ours, torchvision's, and others'.
_NAMES = ("target", "targets", "labels")


def targets_of(dataset: Any) -> Shaped[Tensor, "samples ..."] | None:
    """The targets of all samples, where a data set holds them; None where only its samples tell.

    They are an attribute `target`, `targets` or `labels` with an entry for each sample, or the second of a
    `TensorDataset`'s two tensors; a `Subset` and a `ConcatDataset` have those of what they are made of, and views of
    samples those of the samples, each once.

    Example:
        >>> whole = TensorDataset(torch.zeros(3, 2), torch.tensor([0, 1, 1]))
        >>> targets_of(Subset(whole, [2, 0])), targets_of([(0.0, 1)])
        (tensor([1, 0]), None)
    """
    if isinstance(dataset, Subset):
        whole = targets_of(dataset.dataset)
        # Views come several times, their samples' targets once.
        if whole is None or len(whole) != len(dataset.dataset):  # type: ignore[arg-type]
            return None
        return whole[torch.as_tensor(list(dataset.indices), dtype=torch.int64)]
    if isinstance(dataset, SeededViews):
        return targets_of(dataset.dataset)
    if isinstance(dataset, ConcatDataset):
        parts = [targets_of(part) for part in dataset.datasets]
        present = [part for part in parts if part is not None]
        return torch.cat(present) if len(present) == len(parts) else None
    if isinstance(dataset, TensorDataset):
        return dataset.tensors[1] if len(dataset.tensors) == 2 else None
    if getattr(dataset, "target_transform", None) is not None:
        return None
    for name in _NAMES:
        target = _as_targets(getattr(dataset, name, None))
        if target is not None and len(target) == len(dataset):
            return target
    return None


def _as_targets(given: Any) -> Tensor | None:
    """Numbers as targets: whole ones as class indices, others as probabilities; None for what holds no numbers."""
    if isinstance(given, Tensor):
        return given if given.ndim else None
    if not isinstance(given, list | tuple | np.ndarray):
        return None
    try:
        target = torch.as_tensor(np.asarray(given))
    except (TypeError, ValueError):  # strings, objects, and lists of unlike lengths
        return None
    return target if target.ndim and target.dtype != torch.bool else None


def count_classes(
    who: str, targets: Iterable[Shaped[Tensor, "..."]], num_classes: int | None = None, ignored: tuple[int, ...] = ()
) -> Float[Tensor, " classes"]:
    """How many samples each class has; probabilities add their mass, and ignored targets count nothing.

    Args:
        who: the name that errors begin with.
        targets: batches of class indices [...], or of probabilities [..., C]; of several labels a sample, 1 for each.
        num_classes: C; the largest class and those below it for None.
        ignored: the class indices that are ignored; -100 if none is given.

    Returns:
        [C] in float64.

    Raises:
        ValueError: targets outside of the classes.

    Example:
        >>> count_classes("demo", [torch.tensor([0, 2, 2, -100]), torch.tensor([[0.5, 0.5, 0.0]])])
        tensor([1.5000, 0.5000, 2.0000], dtype=torch.float64)
    """
    total = torch.zeros(num_classes or 0, dtype=torch.float64)
    for target in targets:
        # In uint8 the class 156 is -100 too.
        target = target if target.is_floating_point() else target.long()
        kept = target[labelled_rows(target, *ignored)].cpu()
        if kept.is_floating_point():
            counts = kept.double().clamp(min=0).sum(dim=0)
        elif len(kept) and int(kept.min()) < 0:
            raise ValueError(
                f"{who}: target {int(kept.min())} came; give classes from 0 on, or tell the losses its ignore_index."
            )
        else:
            counts = torch.bincount(kept).double()
        total, counts = (
            torch.nn.functional.pad(c, (0, max(len(total), len(counts)) - len(c))) for c in (total, counts)
        )
        total = total + counts
        if num_classes is not None and len(total) > num_classes:
            raise ValueError(f"{who}: targets of {len(total)} classes came for num_classes={num_classes}.")
    return total
