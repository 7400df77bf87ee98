"""What the metrics of embeddings share: checked rows of length 1, and blocks of rows that are compared at once."""

from collections.abc import Iterator
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.numerics.checks import check_floating
from lightning_losses.numerics.distances import unit_rows

# Similarities in memory at once: 32 MB in float64.
_BLOCK = 1 << 22


def checked_directions(who: str, name: str, embeddings: Any) -> Float[Tensor, "samples d"]:
    """Embeddings in float64, of length 1; those of length 0 stay 0.

    Raises:
        ValueError: no floating-point [n, d] with n and d of at least 1.
    """
    check_floating(who, name, embeddings)
    if embeddings.ndim != 2 or 0 in embeddings.shape:
        raise ValueError(
            f"{who}: {name} of shape {list(embeddings.shape)} came; give [samples, d], at least one of each."
        )
    return unit_rows(embeddings.double())


def class_of_each(who: str, name: str, embeddings: Tensor, target: Any) -> Int[Tensor, " samples"]:
    """The classes of embeddings.

    Raises:
        ValueError: no class index for each; one below 0, such as -100, which would count as a class.
    """
    if not isinstance(target, Tensor) or target.is_floating_point() or target.shape != embeddings.shape[:1]:
        came = f"{target.dtype} {list(target.shape)}" if isinstance(target, Tensor) else type(target).__name__
        raise ValueError(f"{who}: {name} came as {came} for {len(embeddings)} embeddings; give a class index for each.")
    if bool((target < 0).any()):
        raise ValueError(
            f"{who}: {name} holds {int(target.min())}, which is no class; give class indices from 0 on, and leave out "
            f"the samples that are ignored, by embeddings[{name} >= 0]."
        )
    return target.long()


def blocks(rows: int, columns: int) -> Iterator[slice]:
    """Slices of the rows, each so short that its similarities with all columns fit in memory.

    Example:
        >>> [(part.start, part.stop) for part in blocks(3, 1 << 21)]
        [(0, 2), (2, 3)]
    """
    size = max(_BLOCK // max(columns, 1), 1)
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))
