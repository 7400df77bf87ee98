"""StableMax cross-entropy of a classifier head without its logits."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.kernels.chunked_head import ChunkedImpl, chunked_head
from lightning_losses.kernels.traced import Returned, traceable
from lightning_losses.losses.classification.stablemax_cross_entropy import ComputeDtype, StableMaxCrossEntropy
from lightning_losses.numerics.reduction import Reduction


def _returned(arguments: dict[str, Any]) -> Returned:
    rows = arguments.get("reduction", "mean") == "none"
    return Returned(None, ("loss",), (rows,), tuple(arguments["hidden"].shape[:-1]))


@traceable(_returned)
def linear_stablemax_cross_entropy(
    hidden: Float[Tensor, "*tokens width"],
    weight: Float[Tensor, "vocabulary width"],
    target: Int[Tensor, "*tokens"],
    bias: Float[Tensor, " vocabulary"] | None = None,
    *,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    normalizer: float | Tensor | None = None,
    chunk: int | None = None,
    accum_dtype: torch.dtype | None = None,
    impl: ChunkedImpl = "auto",
) -> Float[Tensor, "..."]:
    """`StableMaxCrossEntropy` of ``hidden @ weight.T + bias``, without ever holding these logits.

    The arguments are those of `chunked_head`, and the loss's `label_smoothing`. StableMax itself runs in float32, or in
    float64 for float64 inputs: the scores of a float32 head have no higher precision.

    Example:
        >>> hidden, weight = torch.eye(3, 4), torch.ones(5, 4)
        >>> round(linear_stablemax_cross_entropy(hidden, weight, torch.tensor([0, 1, 2])).item(), 4)
        1.6094
    """
    precise: ComputeDtype = "float64" if hidden.dtype == torch.float64 else "float32"
    loss = StableMaxCrossEntropy(label_smoothing, precise, ignore_index=ignore_index, reduction=reduction)
    return chunked_head(
        loss, hidden, weight, target, bias, normalizer=normalizer, chunk=chunk, accum_dtype=accum_dtype, impl=impl
    )
