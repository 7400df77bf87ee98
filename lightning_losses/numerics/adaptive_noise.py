"""Noise on hidden states that is larger for tokens that vary more, and smaller for outlying entries."""

from jaxtyping import Float
from torch import Tensor

from lightning_losses.numerics.probabilities import full_precision

_LARGEST_FACTOR = 5.0


def adaptive_noise(
    hidden: Float[Tensor, "... tokens width"],
    normal: Float[Tensor, "... tokens width"],
    std: float | Float[Tensor, ""],
    *,
    beta: float = 0.1,
    gate: float = 1.0,
    epsilon: float = 1e-6,
) -> Float[Tensor, "... tokens width"]:
    """NoiseFiT's noise: ``normal · std · gate · mad · exp(-β |h - median| / (mad + ε)) · factor``.

    A token's median is the lower one of its entries, and mad, at least ``ε |h|``, that of their distances from it; its
    factor is ``min(5, exp(v / (mean v + ε)))``, with v the variance of its entries. Its mean is 0.

    Args:
        hidden: [..., T, D] hidden states.
        normal: [..., T, D] standard normal numbers.
        std: the base standard deviation.
        beta: β, at least 0: how much less noise an entry far from the median gets.
        gate: a factor, from 0 to 1.
        epsilon: ε.

    Returns:
        [..., T, D] what is added to the hidden states, in full precision.

    Source:
        akhadangi/NoiseFiT, of Khadangi, Sartipi, Tchappi, Bahmani, 2025, arXiv:2504.03302, where it is given no logits;
        the statistics have a gradient there, and here.

    Example:
        >>> import torch
        >>> adaptive_noise(torch.tensor([[-1.0, 0.0, 1.0]]), torch.ones(1, 3), 0.1, beta=0.0)  # factor e
        tensor([[0.2718, 0.2718, 0.2718]])
    """
    hidden = full_precision(hidden)
    variance = hidden.var(dim=-1, keepdim=True)
    factor = (variance / (variance.mean() + epsilon)).exp().clamp(max=_LARGEST_FACTOR)
    distance = (hidden - hidden.median(dim=-1, keepdim=True).values).abs()
    spread = distance.median(dim=-1, keepdim=True).values.maximum(epsilon * hidden.norm(dim=-1, keepdim=True))
    share = (-beta * distance / (spread + epsilon)).exp()
    return full_precision(normal) * std * gate * spread * share * factor
