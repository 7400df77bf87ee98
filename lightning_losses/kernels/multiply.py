"""Multiplies a tensor by a number in GPU memory, at no cost if the number is 1."""

# ruff: noqa: N803  (Triton's compile-time constants are written in capitals)
import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from jaxtyping import Float
from torch import Tensor

_BLOCK = 16384


@triton.jit
def multiply_kernel(values_ptr, factor_ptr, count, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Each program multiplies one block in place, or returns at once if the factor is 1."""
    factor = tl.load(factor_ptr)
    if factor != 1.0:
        places = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        inside = places < count
        values = tl.load(values_ptr + places, mask=inside, other=0.0)
        tl.store(values_ptr + places, (values.to(factor.dtype) * factor).to(values.dtype), mask=inside)


def multiply(tensor: Float[Tensor, "..."], factor: Float[Tensor, ""]) -> Float[Tensor, "..."]:
    """``tensor *= factor`` in place, for a contiguous tensor."""
    if tensor.numel():
        with torch.cuda.device_of(tensor):  # type: ignore[no-untyped-call]
            multiply_kernel[(triton.cdiv(tensor.numel(), _BLOCK),)](
                tensor, factor, tensor.numel(), BLOCK=_BLOCK, num_warps=8
            )
    return tensor
