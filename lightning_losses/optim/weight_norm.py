"""The norm of all weights, and its projection to a given value."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.numerics.checks import check_number
from lightning_losses.numerics.probabilities import full_precision
from lightning_losses.parallel.sharding import local_part, whole_dots


@torch.no_grad()
def weight_norm(weights: Sequence[Tensor]) -> Float[Tensor, ""]:
    """The L2 norm of the concatenation of tensors; under FSDP2 over the whole tensors.

    Example:
        >>> weight_norm([torch.tensor([3.0]), torch.tensor([0.0, 4.0])])
        tensor(5.)
    """
    norm = whole_dots(weights, weights).sum().sqrt()
    return norm.to(full_precision(local_part(weights[0])).dtype) if weights else norm


@torch.no_grad()
def scale_weights_(weights: Sequence[Tensor], factor: float) -> None:
    """Multiply every tensor by one factor, in place."""
    for weight in weights:
        local_part(weight).mul_(factor)


@torch.no_grad()
def project_weight_norm_(weights: Sequence[Tensor], norm: float) -> None:
    """Multiply all tensors, in place, by the single factor that gives their concatenation the requested L2 norm.

    Weights that are all 0 stay 0.

    Args:
        weights: tensors; under FSDP2 the norm is over the whole tensors.
        norm: the requested norm, above 0.

    Raises:
        ValueError: a norm of 0 or less.

    Source:
        Liu, Michaud, Tegmark, 2022, "Omnigrok: Grokking Beyond Algorithmic Data", arXiv:2210.01117.

    Example:
        >>> weights = [torch.tensor([3.0]), torch.tensor([0.0, 4.0])]
        >>> project_weight_norm_(weights, 10.0)
        >>> weights
        [tensor([6.]), tensor([0., 8.])]
    """
    check_number("weight_norm_projection", "norm", norm, above=0)
    now = weight_norm(weights)
    factor = torch.where(now > 0, norm / now, 1.0)
    for weight in weights:
        part = local_part(weight)
        part.mul_(factor.to(part.dtype))
