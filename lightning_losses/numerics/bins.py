"""Bins of equal width, with edges in the precision of the binned values."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def width_edges(
    num_bins: int, dtype: torch.dtype, device: torch.device | str | None = None
) -> Float[Tensor, " inner_edges"]:
    """The inner edges ``b / B``, b = 1 to B - 1, each rounded once to `dtype`, as a confidence of that value is.

    Example:
        >>> bool(width_edges(10, torch.float32)[7] == torch.tensor(0.8))
        True
    """
    steps = torch.arange(1, num_bins, dtype=torch.promote_types(dtype, torch.float32), device=device)
    # By a tensor: on CUDA division by a number is multiplication by its reciprocal, which rounds twice.
    return (steps / torch.full_like(steps, num_bins)).to(dtype)


def width_bins(confidence: Float[Tensor, "*shape"], num_bins: int) -> Int[Tensor, "*shape"]:
    """The equal-width bin of each confidence: bin b is ``(b / B, (b + 1) / B]``, with 0 in the first.

    A confidence is compared with edges of its own precision: 0.8 in float32 is above 0.8 in float64, and still is in
    the bin that 0.8 closes.

    Example:
        >>> width_bins(torch.tensor([0.0, 0.8, 0.81]), 10)
        tensor([0, 7, 8])
    """
    return torch.searchsorted(width_edges(num_bins, confidence.dtype, confidence.device), confidence.contiguous())
