"""Launches of the Triton kernels; they are imported when they run, because importing takes a second."""

import os
from functools import cache
from importlib.util import find_spec

import torch
from jaxtyping import Float
from torch import Tensor

_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def has_kernels(like: Tensor) -> bool:
    """Whether Triton's kernels take tiles there: on CUDA, or elsewhere interpreted, outside of compiled code."""
    if torch.compiler.is_compiling() or (like.device.type != "cuda" and not _INTERPRETED):
        return False
    return _installed()


@cache
def _installed() -> bool:
    return find_spec("triton") is not None


def logsumexp(scores: Float[Tensor, "n m"], dim: int) -> Float[Tensor, " lines"]:
    """The logsumexps of a tile, in units of log 2, along a dimension; -inf for a line without pairs."""
    if dim == 1:
        lse = scores.new_empty(len(scores))
        _over_rows(scores, lse, None, None, None, sums=True)
        return lse
    from lightning_losses.similarities.triton_kernel import column_kernel

    rows, columns = scores.shape
    lse, width = scores.new_empty(columns), 32
    tile = {"HEIGHT": 128, "WIDTH": width}
    with torch.cuda.device_of(scores):  # type: ignore[no-untyped-call]
        column_kernel[(-(-columns // width),)](scores, lse, rows, columns, COMPUTE=_kind(scores), num_warps=8, **tile)
    return lse


def softmax(scores: Float[Tensor, "n m"]) -> Float[Tensor, " n"]:
    """The rows' logsumexps; the scores are overwritten by probabilities."""
    lse = scores.new_empty(len(scores))
    _over_rows(scores, lse, torch.ones_like(lse), None, None, sums=True)
    return lse


def slopes(
    scores: Float[Tensor, "n m"],
    lse: Float[Tensor, " n"],
    by_row: Float[Tensor, " n"],
    of_column: Float[Tensor, " m"] | None = None,
    by_column: Float[Tensor, " m"] | None = None,
) -> Float[Tensor, "n m"]:
    """The scores, overwritten by their gradient from those by the logsumexps of rows and columns."""
    _over_rows(scores, lse, by_row, of_column, by_column, sums=False)
    return scores


def _kind(scores: Tensor) -> object:
    import triton.language as tl  # type: ignore[import-untyped]

    return tl.float64 if scores.dtype == torch.float64 else tl.float32


def _over_rows(
    scores: Tensor,
    lse: Tensor,
    by_row: Tensor | None,
    of_column: Tensor | None,
    by_column: Tensor | None,
    *,
    sums: bool,
) -> None:
    from lightning_losses.similarities.triton_kernel import row_kernel

    columns = scores.shape[1]
    # An entry for each of 128 threads at least: two that held the same one would read and overwrite it at once.
    block = 64 if _INTERPRETED else min(max(1 << (columns - 1).bit_length(), 128), 4096)
    given = (lse if each is None else each.contiguous() for each in (by_row, of_column, by_column))
    with torch.cuda.device_of(scores):  # type: ignore[no-untyped-call]
        row_kernel[(len(scores),)](
            scores,
            lse,
            *given,
            columns,
            SUMS=sums,
            SLOPES=by_row is not None,
            BOTH=of_column is not None,
            COMPUTE=_kind(scores),
            BLOCK=block,
            num_warps=min(max(block // 256, 4), 16),
        )
