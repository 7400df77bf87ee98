"""L1 distances between all rows of two matrices, with a gradient that never stores rows x rows x columns."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.numerics.derivatives import in_transform

# Elements of the largest intermediate of the backward pass.
_CHUNK = 1 << 22


def l1_distances(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """``sum_k |x_ik - y_jk|`` for every pair of rows; where entries are equal, the subgradient is 0.

    Example:
        >>> l1_distances(torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        tensor([[2., 0.]])
    """
    # torch's backward pass makes an [n, m, d] tensor on accelerators, but not on the CPU, where it is fast.
    torchs = x.device.type == "cpu" or in_transform()
    distances: Tensor = torch.cdist(x, y, p=1.0) if torchs else _L1Distances.apply(x, y)
    return distances


class _L1Distances(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(x, y)
        return torch.cdist(x, y, p=1.0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, y = ctx.saved_tensors
        with torch.autocast(x.device.type, enabled=False):
            by_x = _signed_sums(gradient, x, y) if ctx.needs_input_grad[0] else None
            by_y = _signed_sums(gradient.mT, y, x) if ctx.needs_input_grad[1] else None
        return by_x, by_y


def _signed_sums(gradient: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """``sum_j gradient_ij sign(x_i - y_j)`` for every i."""
    rows = max(_CHUNK // max(y.numel(), 1), 1)
    pieces = [
        torch.bmm(part.unsqueeze(1), (own.unsqueeze(1) - y).sign_()).squeeze(1)
        for part, own in zip(torch.split(gradient, rows), torch.split(x, rows), strict=True)
    ]
    return torch.cat(pieces) if pieces else torch.zeros_like(x)
