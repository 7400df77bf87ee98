"""NoiseFiT of a language model's head without its logits."""

import copy
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from lightning_losses.kernels.cross_entropy.walk import default_chunk
from lightning_losses.kernels.inputs import check_chunk, check_head, check_normalizer
from lightning_losses.kernels.traced import Returned, traceable
from lightning_losses.losses.language.noisefit import NoiseFiT
from lightning_losses.numerics.checks import check_number
from lightning_losses.numerics.products import spans
from lightning_losses.numerics.reduction import Reduction, reduce

_NAME = "linear_noisefit"


def _returned(arguments: dict[str, Any]) -> Returned:
    reduction = arguments.get("reduction")
    rows = (arguments["loss"].reduction if reduction is None else reduction) == "none"
    return Returned(None, ("loss",), (rows,), tuple(arguments["hidden"].shape[:-1]))


@traceable(_returned)
def linear_noisefit(
    loss: NoiseFiT,
    hidden: Float[Tensor, "*tokens width"],
    noisy_hidden: Float[Tensor, "*tokens width"],
    noisy_hidden_b: Float[Tensor, "*tokens width"],
    weight: Float[Tensor, "vocabulary width"],
    target: Int[Tensor, "*tokens"],
    bias: Float[Tensor, " vocabulary"] | None = None,
    *,
    ignore_index: int | None = None,
    reduction: Reduction | None = None,
    normalizer: float | Tensor | None = None,
    softcap: float | None = None,
    chunk: int | None = None,
) -> Float[Tensor, "..."]:
    """``loss`` of the logits of three passes, ``hidden @ weight.T + bias`` each, for one chunk of tokens at a time.

    The gradient goes through all three, so a chunk's logits are computed again in the backward pass.

    Args:
        loss: the loss with its settings.
        hidden: [..., D] hidden states without noise.
        noisy_hidden: [..., D] with noise.
        noisy_hidden_b: [..., D] with other noise.
        weight: [V, D] the head's weight.
        target: [...] int64 token ids.
        bias: [V], or None.
        ignore_index: tokens with this target are ignored; by default the loss's own value.
        reduction: by default the loss's own; the mean is over the kept tokens.
        normalizer: the divisor of the mean; by default the count of its tokens.
        softcap: s: logits become ``s tanh(l / s)``; None for none.
        chunk: tokens held at once; chosen by default.

    Returns:
        The loss in float32 (float64 for float64).

    Raises:
        ValueError: tensors that don't fit.

    Example:
        >>> hidden, weight, target = torch.eye(3, 4), torch.randn(5, 4), torch.tensor([0, 1, 2])
        >>> value = linear_noisefit(NoiseFiT(), hidden, 2 * hidden, -hidden, weight, target, chunk=2)
        >>> logits = hidden @ weight.T
        >>> torch.allclose(value, NoiseFiT()(logits, 2 * logits, -logits, target))
        True
    """
    passes = (hidden, noisy_hidden, noisy_hidden_b)
    for each in passes:
        check_head(_NAME, each, weight, target, bias)
    settled: Reduction = loss.reduction if reduction is None else reduction
    check_normalizer(_NAME, normalizer, settled)
    check_chunk(_NAME, chunk)
    if softcap is not None:
        check_number(_NAME, "softcap", softcap, above=0)
    unreduced = copy.copy(loss)
    unreduced.ignore_index, unreduced.reduction = loss.ignore_index if ignore_index is None else ignore_index, "none"

    def of_chunk(weight: Tensor, bias: Tensor | None, target: Tensor, *rows: Tensor) -> Float[Tensor, " chunk"]:
        # An ignored row may hold NaN, which a gradient of 0 would carry into the weight's.
        kept = (target != unreduced.ignore_index).unsqueeze(1)
        scores = (torch.nn.functional.linear(torch.where(kept, part, 0.0), weight, bias) for part in rows)
        logits = scores if softcap is None else (softcap * torch.tanh(score / softcap) for score in scores)
        value: Tensor = unreduced(*logits, target)
        return value

    labels, rows = target.flatten(), [each.reshape(-1, each.shape[-1]) for each in passes]
    parts = list(spans(len(labels), chunk or default_chunk(len(labels), weight, full=True))) or [slice(0, 0)]
    values = torch.cat(
        [
            # Nothing is drawn; a generator's state can't be read where a CUDA graph is captured.
            checkpoint(
                of_chunk,
                weight,
                bias,
                labels[part],
                *(each[part] for each in rows),
                use_reentrant=False,
                preserve_rng_state=False,
            )
            for part in parts
        ]
    )
    kept = labels != unreduced.ignore_index
    if settled == "mean" and normalizer is not None:
        return values.sum() / normalizer
    return reduce(values.view(target.shape), settled, kept.view(target.shape))
