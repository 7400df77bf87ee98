"""Matrix products and exponentials, each by the routine that this machine runs fastest at full accuracy."""

import platform
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.torch_version import TorchVersion

# Rows or columns of a float16 operand that are raised at once.
_RAISED = 4096


def product(
    a: Float[Tensor, "rows inner"],
    b: Float[Tensor, "columns inner"],
    out: Float[Tensor, "rows columns"] | None = None,
) -> Float[Tensor, "rows columns"]:
    """``a @ b.T`` for two matrices of one dtype; in `out` where the routine can write there.

    Example:
        >>> product(torch.eye(2), torch.ones(3, 2)).shape
        torch.Size([2, 3])
    """
    if by_onednn_float32(a) and a.numel() and b.numel():
        new: Tensor = torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")
        return new
    return torch.mm(a, b.t()) if out is None else torch.mm(a, b.t(), out=out)


def accumulate(
    total: Float[Tensor, "rows columns"], a: Float[Tensor, "rows inner"], b: Float[Tensor, "columns inner"], first: bool
) -> None:
    """``total += a @ b.T`` in place; with `first` the old content of `total` is overwritten."""
    by_blas = total.dtype == a.dtype and not by_onednn_float32(a)
    if total.dtype == torch.float32 != a.dtype and raises_products(a.device):
        # A product of halves gathers in float32 anyway: it adds to a float32 total without a copy of its own.
        if first:
            torch.ops.aten.mm.dtype_out(a, b.t(), torch.float32, out=total)
        else:
            torch.ops.aten.addmm.dtype_out(total, a, b.t(), torch.float32, out=total)
    elif by_blas and first:
        torch.mm(a, b.t(), out=total)
    elif by_blas:
        total.addmm_(a, b.t())
    elif a.dtype == torch.float16 != total.dtype:
        _accumulate_raised(total, a, b, first)
    elif first:
        total.copy_(product(a, b))
    else:
        total.add_(product(a, b))


def _accumulate_raised(
    total: Float[Tensor, "rows columns"], a: Float[Tensor, "rows inner"], b: Float[Tensor, "columns inner"], first: bool
) -> None:
    """`accumulate` of float16, whose rounded product could overflow, by tiles: a whole raised operand takes 1 GB."""
    rows, inner = a.shape
    if first:
        total.zero_()
    if inner > rows:
        for part in spans(inner, _RAISED):
            total.addmm_(a[:, part].to(total.dtype), b[:, part].to(total.dtype).t())
    else:
        raised = b.to(total.dtype).t()
        for part in spans(rows, _RAISED):
            total[part].addmm_(a[part].to(total.dtype), raised)


def product_into(
    out: Float[Tensor, "rows columns"], a: Float[Tensor, "rows inner"], b: Float[Tensor, "columns inner"]
) -> None:
    """``out = a @ b.T``, which may be float32 beside operands in half precision."""
    if out.dtype == a.dtype:
        torch.mm(a, b.t(), out=out)
    else:
        accumulate(out, a, b, first=True)


def raises_products(device: torch.device) -> bool:
    """Whether products of half-precision matrices can be written in float32 there."""
    # Before torch 2.10 a product could be written, but not added, to float32.
    return device.type == "cuda" and TorchVersion(torch.__version__) >= "2.10"


def working_dtype(tensor: Tensor) -> torch.dtype:
    """The dtype in which the products of such a tensor run: its own, or float32 where that is faster or safer.

    float16 is always raised: the small entries of a gradient underflow in it. bfloat16 is raised on a CPU that has
    no instructions for it, where its products are emulated.
    """
    if tensor.dtype == torch.float16:
        return torch.float32
    if tensor.dtype == torch.bfloat16 and tensor.device.type == "cpu" and not cpu_bfloat16():
        return torch.float32
    return tensor.dtype


@cache
def cpu_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 matrices natively."""
    return torch._C._has_mkldnn and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def onednn_float32() -> bool:
    """Whether oneDNN beats the BLAS behind `torch.mm` in float32.

    MKL keeps its AVX-512 kernels to Intel's CPUs; elsewhere oneDNN, which torch carries too, is about twice as fast
    at the same accuracy.
    """
    return _ONEDNN_FLOAT32


def by_onednn_float32(tensor: Tensor) -> bool:
    """Whether `product` of such a tensor is oneDNN's, which writes nowhere but into a tensor of its own."""
    return tensor.dtype == torch.float32 and tensor.device.type == "cpu" and onednn_float32()


@cache
def cpu_vendor() -> str:
    """Who made this CPU."""
    return _cpu_listing("vendor_id") or platform.processor()


@cache
def cpu_flags() -> frozenset[str]:
    """The instruction sets of this CPU by Linux's names; none on another system."""
    return frozenset(_cpu_listing("flags").split())


def _cpu_listing(entry: str) -> str:
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        for line in listing.read_text().splitlines():
            if line.startswith(entry):
                return line.partition(":")[2].strip()
    return ""


def exponentiate(
    scores: Float[Tensor, "*shape"], out: Float[Tensor, "*shape"] | None = None
) -> Float[Tensor, "*shape"]:
    """``exp`` in place, or into `out`."""
    out = scores if out is None else out
    if scores.device.type == "cpu" and scores.dtype in (torch.float32, torch.float64):
        # torch.exp goes to MKL, several times slower than exp2 outside Intel's CPUs, and no faster on them.
        return torch.mul(scores, 1.4426950408889634, out=out).exp2_()
    return torch.exp(scores, out=out)


def row_sums(values: Float[Tensor, "rows columns"], dtype: torch.dtype) -> Float[Tensor, " rows"]:
    """The sum of each row, in `dtype`.

    Example:
        >>> row_sums(torch.ones(2, 3, dtype=torch.bfloat16), torch.float32)
        tensor([3., 3.])
    """
    if values.device.type != "cpu" or values.dtype == dtype:
        return values.sum(dim=1, dtype=dtype)
    # A CPU converts the whole operand first; converted in parts, it stays in the cache.
    total = values.new_zeros(len(values), dtype=dtype)
    for columns in spans(values.shape[1], 512):
        total += values[:, columns].sum(dim=1, dtype=dtype)
    return total


def spans(length: int, width: int) -> Iterator[slice]:
    """Slices of `width` that cover `length`; one empty slice for a length of 0."""
    for start in range(0, max(length, 1), width):
        yield slice(start, min(start + width, length))


# Looked up beforehand: a compiler can't trace what asks for the processor.
_ONEDNN_FLOAT32 = (
    torch._C._has_mkldnn
    and torch._C.has_mkl
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    and torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    and cpu_vendor() == "AuthenticAMD"
)
