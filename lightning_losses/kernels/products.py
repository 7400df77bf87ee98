"""What the fused losses of a head share: their chunks on a GPU, memory for them, and the upstream gradient."""

import importlib.util
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor


def multiplied(tensor: Float[Tensor, "..."], factor: Float[Tensor, ""]) -> Float[Tensor, "..."]:
    """``tensor *= factor`` in place, without a pass where it would change nothing.

    The gradient of a head is large, and the factor, an upstream gradient, is usually 1. The CPU reads the factor; on a
    GPU the kernel reads it, since the host would have to wait.

    Example:
        >>> multiplied(torch.ones(2), torch.tensor(3.0))
        tensor([3., 3.])
    """
    if tensor.device.type == "cpu":
        return tensor if float(factor) == 1.0 else tensor.mul_(factor)
    if tensor.device.type == "cuda" and tensor.is_contiguous() and has_triton():
        from lightning_losses.kernels.multiply import multiply

        return multiply(tensor, factor)
    return tensor.mul_(factor)


@cache
def has_triton() -> bool:
    """Whether Triton is installed, without importing it."""
    return importlib.util.find_spec("triton") is not None


def padded_rows(like: Tensor, rows: int, columns: int) -> Float[Tensor, "rows columns"]:
    """Memory for a matrix whose rows begin at multiples of 16 entries, so that kernels read them in wide loads."""
    return like.new_empty(rows, -(-columns // 16) * 16)[:, :columns]


def cuda_chunk(tokens: int, vocabulary: int, itemsize: int, device: torch.device | None = None) -> int:
    """Tokens in a chunk on a GPU: even chunks of about 512 MiB of scores, in multiples of 128, 1024 to 4096 at most.

    Hopper and later, whose products are fast and whose memory is large, take chunks of up to 2048 tokens in any case.

    Args:
        tokens: N.
        vocabulary: V.
        itemsize: bytes of a score.
        device: the GPU; None for one before Hopper.

    Example:
        >>> cuda_chunk(8192, 128256, 2), cuda_chunk(8192, 32768, 2), cuda_chunk(5000, 128256, 2)
        (2048, 4096, 1792)
    """
    on_cuda = device is not None and device.type == "cuda" and torch.cuda.is_available()
    hopper = on_cuda and torch.cuda.get_device_capability(device) >= (9, 0)
    most = min(max(2**29 // (max(vocabulary, 1) * itemsize) // 128 * 128, 2048 if hopper else 1024), 4096)
    chunks = max(-(-tokens // most), 1)
    return max(-(-tokens // (128 * chunks)), 1) * 128
