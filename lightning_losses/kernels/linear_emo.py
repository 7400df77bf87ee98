"""EMO of a language model's head without its logits."""

import copy

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.kernels.chunked_head import ChunkedImpl, chunked_head, returned
from lightning_losses.kernels.inputs import check_classes_of_head, check_head
from lightning_losses.kernels.traced import traceable
from lightning_losses.losses.language.emo import EMO
from lightning_losses.numerics.checks import check_floating
from lightning_losses.numerics.distances import unit_rows
from lightning_losses.numerics.probabilities import full_precision
from lightning_losses.numerics.reduction import Reduction

_NAME = "linear_emo"


@traceable(returned)
def linear_emo(
    loss: EMO,
    hidden: Float[Tensor, "*tokens width"],
    weight: Float[Tensor, "vocabulary width"],
    target: Int[Tensor, "*tokens"],
    bias: Float[Tensor, " vocabulary"] | None = None,
    *,
    cost_embedding: Float[Tensor, "vocabulary dim"] | None = None,
    ignore_index: int | None = None,
    reduction: Reduction | None = None,
    normalizer: float | Tensor | None = None,
    chunk: int | None = None,
    accum_dtype: torch.dtype | None = None,
    drop_ignored: bool | None = None,
    softcap: float | None = None,
    impl: ChunkedImpl = "auto",
) -> Float[Tensor, "..."]:
    """``loss(hidden @ weight.T + bias, target, cost_embedding)``, without ever holding these logits.

    It goes by chunks of tokens, as `chunked_head`. A chunk's cosines with its targets are one product more than
    cross-entropy has, and their gradient none: they are constants. Cosines are held for one chunk too.

    Args:
        loss: the loss with its settings.
        hidden: [..., D] hidden states.
        weight: [V, D] the head's weight.
        target: [...] int64 token ids.
        bias: [V], or None.
        cost_embedding: [V, D'] vectors whose cosines say how alike two tokens are, constant; None for the head's own
            weight, whose gradient through the cosines is cut, as the authors have it.
        ignore_index, reduction, normalizer, chunk, accum_dtype, drop_ignored, softcap, impl: as in `chunked_head`.

    Returns:
        The loss in float32 (float64 for float64).

    Raises:
        ValueError: tensors that don't fit.

    Example:
        >>> hidden, weight, target = torch.eye(3, 4), torch.randn(5, 4), torch.tensor([0, 1, 2])
        >>> value = linear_emo(EMO(), hidden, weight, target, chunk=2)
        >>> torch.allclose(value, EMO()(hidden @ weight.T, target, weight))
        True
    """
    check_head(_NAME, hidden, weight, target, bias)
    check_classes_of_head(_NAME, len(weight))
    if cost_embedding is not None:
        check_floating(_NAME, "cost_embedding", cost_embedding)
        if cost_embedding.ndim != 2 or len(cost_embedding) != len(weight) or cost_embedding.shape[1] == 0:
            raise ValueError(
                f"{_NAME}: cost_embedding of shape {list(cost_embedding.shape)} came with a vocabulary of "
                f"{len(weight)}; give [{len(weight)}, D'], D' at least 1."
            )
    # Normalised once, and not once a chunk: what has length 1 keeps it.
    directions = unit_rows(full_precision((weight if cost_embedding is None else cost_embedding).detach()))
    ignored = loss.ignore_index if ignore_index is None else ignore_index
    unreduced = copy.copy(loss)
    unreduced.ignore_index, unreduced.reduction = ignored, "none"

    def of_chunk(logits: Tensor, target: Tensor, reduction: str) -> Tensor:
        return unreduced(logits, target, directions)

    # By which errors call it.
    of_chunk.__name__ = _NAME

    return chunked_head(
        of_chunk,
        hidden,
        weight,
        target,
        bias,
        ignore_index=ignored,
        reduction=loss.reduction if reduction is None else reduction,
        normalizer=normalizer,
        chunk=chunk,
        accum_dtype=accum_dtype,
        drop_ignored=drop_ignored,
        softcap=softcap,
        impl=impl,
    )
