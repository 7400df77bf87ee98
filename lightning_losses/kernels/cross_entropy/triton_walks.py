"""Linear cross-entropy by Triton: products by cuBLAS with one kernel on each chunk's logits, or no logits at all.

The fast path is that of "chunked", with the passes over a chunk's logits fused into one kernel. The low-memory path
is that of "recompute", with per-row gradients and gradient filtering, in two kernels; its gradients gather in float32
by atomic additions, so that their last bits vary from run to run.
"""

from typing import Any, NamedTuple

import torch
import triton  # type: ignore[import-untyped]
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.kernels.autograd import Summed, Wanted, refuse_second_order
from lightning_losses.kernels.cross_entropy.triton_kernels import (
    cross_entropy_kernel,
    head_backward_kernel,
    head_forward_kernel,
)
from lightning_losses.kernels.cross_entropy.walk import default_chunk
from lightning_losses.kernels.products import accumulate, product, spans
from lightning_losses.kernels.terms import Terms

INTERPRETED = bool(triton.knobs.runtime.interpret)


class Tiles(NamedTuple):
    """Tokens, vocabulary entries and width of a tile, and how a program runs it."""

    rows: int
    columns: int
    inner: int
    warps: int
    stages: int


def forward_tiles(dtype: torch.dtype) -> Tiles:
    """The tiles of the forward kernel: without spills, and within the shared memory of sm_80 and sm_90."""
    if INTERPRETED:
        return Tiles(16, 32, 16, 4, 1)
    return Tiles(64, 64, 32, 4, 3) if dtype == torch.float32 else Tiles(128, 128, 32, 8, 3)


def backward_tiles(dtype: torch.dtype) -> Tiles:
    """The tiles of the backward kernel, likewise."""
    if INTERPRETED:
        return Tiles(16, 32, 16, 4, 1)
    return Tiles(64, 64, 32, 8, 2) if dtype == torch.float32 else Tiles(128, 128, 32, 8, 2)


def row_block(vocabulary: int) -> int:
    """Vocabulary entries that a program of the in-place kernel reads at once."""
    return min(triton.next_power_of_2(max(vocabulary, 16)), 4096)


def _weights(weight: Tensor, terms: Terms) -> Float[Tensor, " vocabulary"]:
    ones = weight.new_ones(len(weight), dtype=torch.float32)
    return ones if terms.class_weight is None else terms.class_weight.to(ones)


def sums_and_gradients(
    hidden: Float[Tensor, "tokens width"],
    weight: Float[Tensor, "vocabulary width"],
    bias: Float[Tensor, " vocabulary"] | None,
    target: Int[Tensor, " tokens"],
    *,
    terms: Terms,
    scale: float | Tensor,
    z_scale: float | Tensor,
    wanted: Wanted,
    chunk: int | None = None,
    accum_dtype: torch.dtype | None = None,
) -> Summed:
    """What `chunked.sums_and_gradients` gives, by its arguments."""
    row_weight = terms.row_weight(target)
    tokens, vocabulary = len(hidden), len(weight)
    ones = hidden.new_ones(tokens, dtype=torch.float32)
    share = ones * (scale * terms.probability_factor(row_weight))
    onehot = ones * (scale * (1 - terms.label_smoothing) * row_weight)
    numbers = torch.stack(
        [ones.new_tensor(1.0) * scale * (terms.label_smoothing / terms.classes), ones.new_tensor(2.0) * z_scale]
    )
    lse, picked, smooth = (torch.empty_like(ones) for _ in range(3))
    class_weight = _weights(weight, terms)
    # Entries of a float16 gradient underflow: its products are raised.
    dtype = torch.float32 if hidden.dtype == torch.float16 else hidden.dtype
    grad_hidden = torch.zeros(hidden.shape, dtype=hidden.dtype, device=hidden.device) if wanted[0] else None
    half = torch.float32 if weight.dtype == torch.float16 else weight.dtype
    grad_weight = torch.zeros(weight.shape, dtype=accum_dtype or half, device=weight.device) if wanted[1] else None
    grad_bias = torch.zeros_like(class_weight) if wanted[2] and bias is not None else None
    raised = weight.to(dtype)
    for rows in spans(tokens, chunk or default_chunk(tokens, weight)) if tokens else ():
        e = hidden[rows].to(dtype)
        logits = product(e, raised)
        if bias is not None:
            logits.add_(bias)
        cross_entropy_kernel[(len(e),)](
            logits,
            target[rows],
            share[rows],
            onehot[rows],
            numbers,
            class_weight,
            lse[rows],
            picked[rows],
            smooth[rows],
            vocabulary,
            terms.softcap or 1.0,
            SOFTCAP=terms.softcap is not None,
            SMOOTH=terms.label_smoothing > 0,
            GRADIENT=any(wanted),
            BLOCK=row_block(vocabulary),
            num_warps=8,
        )
        if grad_hidden is not None:
            grad_hidden[rows] = product(logits, raised.t()).to(hidden.dtype)
        if grad_weight is not None:
            accumulate(grad_weight, logits.t(), e.t().contiguous(), False)
        if grad_bias is not None:
            grad_bias += logits.sum(dim=0, dtype=torch.float32)
    losses = terms.cross_entropy(lse, picked, smooth if terms.label_smoothing else None, row_weight)
    z_part = z_scale * lse.square().sum()
    return Summed(
        scale * losses.sum() + z_part,
        z_part,
        grad_hidden,
        None if grad_weight is None else grad_weight.to(weight.dtype),
        None if grad_bias is None or bias is None else grad_bias.to(bias.dtype),
    )


class TritonRows(torch.autograd.Function):
    """The low-memory path: cross-entropy and logsumexp of each row, both differentiable."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        target: Tensor,
        terms: Terms,
        filter_eps: float | None,
    ) -> tuple[Tensor, Tensor]:
        """Two numbers a row."""
        hidden, weight = hidden.contiguous(), weight.contiguous()
        tokens, vocabulary = len(hidden), len(weight)
        lse, picked, smooth = (hidden.new_zeros(tokens, dtype=torch.float32) for _ in range(3))
        tiles = forward_tiles(hidden.dtype)
        if tokens:
            head_forward_kernel[(triton.cdiv(tokens, tiles.rows),)](
                hidden,
                weight,
                weight if bias is None else bias,
                target,
                _weights(weight, terms),
                lse,
                picked,
                smooth,
                tokens,
                vocabulary,
                terms.softcap or 1.0,
                **_constants(hidden, bias, terms, tiles),
            )
        ctx.save_for_backward(hidden, weight, bias, target, lse)
        ctx.terms, ctx.filter_eps = terms, filter_eps
        losses = terms.cross_entropy(lse, picked, smooth if terms.label_smoothing else None, terms.row_weight(target))
        return losses, lse

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients, from the scores made again."""
        refuse_second_order("triton")
        hidden, weight, bias, target, lse = ctx.saved_tensors
        terms: Terms = ctx.terms
        of_cross_entropy, of_lse = upstream
        row_weight = terms.row_weight(target)
        share = (of_cross_entropy * terms.probability_factor(row_weight) + of_lse).contiguous()
        onehot = (of_cross_entropy * ((1 - terms.label_smoothing) * row_weight)).contiguous()
        smoothing = (of_cross_entropy * (terms.label_smoothing / terms.classes)).contiguous()
        grads = [torch.zeros_like(t, dtype=torch.float32) for t in (hidden, weight)]
        grad_bias = weight.new_zeros(len(weight), dtype=torch.float32)
        tiles = backward_tiles(hidden.dtype)
        if len(hidden):
            grid = (triton.cdiv(len(hidden), tiles.rows), triton.cdiv(len(weight), tiles.columns))
            head_backward_kernel[grid](
                hidden,
                weight,
                weight if bias is None else bias,
                target,
                _weights(weight, terms),
                lse,
                share,
                onehot,
                smoothing,
                *grads,
                grad_bias,
                len(hidden),
                len(weight),
                terms.softcap or 1.0,
                ctx.filter_eps or 0.0,
                FILTER=ctx.filter_eps is not None,
                **_constants(hidden, bias, terms, tiles),
            )
        return (
            grads[0].to(hidden.dtype),
            grads[1].to(weight.dtype),
            None if bias is None else grad_bias.to(bias.dtype),
            None,
            None,
            None,
        )


def _constants(hidden: Tensor, bias: Tensor | None, terms: Terms, tiles: Tiles) -> dict[str, Any]:
    return {
        "WIDTH": hidden.shape[1],
        "HAS_BIAS": bias is not None,
        "SOFTCAP": terms.softcap is not None,
        "SMOOTH": terms.label_smoothing > 0,
        "ROWS": tiles.rows,
        "COLUMNS": tiles.columns,
        "INNER": tiles.inner,
        "UPCAST": INTERPRETED and hidden.dtype == torch.bfloat16,
        "num_warps": tiles.warps,
        "num_stages": tiles.stages,
    }
