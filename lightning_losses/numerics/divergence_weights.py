"""Weights of samples by which a gradient becomes that of another f-divergence."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.numerics.checks import check_choice, check_floating
from lightning_losses.numerics.probabilities import full_precision

WeightedDivergence = Literal["reverse_kl", "forward_kl", "js", "jeffreys", "squared_hellinger", "softened_reverse_kl"]
# Its exponential is finite in float32.
_LARGEST = 80.0


def f_divergence_weight(log_ratio: Float[Tensor, "..."], divergence: WeightedDivergence) -> Float[Tensor, "..."]:
    """The weight of a sample's score difference under an f-divergence, ``h(r) = r^2 f''(r)``, without gradient.

    The gradient of ``D_f = E_q f(r)``, ``r = p / q``, is that of the reverse KL divergence with each sample weighed by
    h(r). With p the teacher and q the student: 1 for the reverse KL divergence, r for the forward one, ``r / (1 + r)``
    for Jensen-Shannon, ``1 + r`` for Jeffreys, ``sqrt(r) / 4`` for the squared Hellinger distance, ``1 / (1 + r)`` for
    the softened reverse KL divergence. The authors divide weights by their mean, and bound them; a ratio above e^80
    counts as that here.

    Args:
        log_ratio: log r, of any shape, such as ``teacher_logps - logps`` of sampled tokens.
        divergence: its name.

    Raises:
        ValueError: log-ratios that are no floating-point numbers; another name.

    Source:
        Xu, Nie, Vahdat, 2025, "One-step Diffusion Models with f-Divergence Distribution Matching", arXiv:2502.15681.

    Example:
        >>> f_divergence_weight(torch.tensor([0.0, 0.0]), "js")
        tensor([0.5000, 0.5000])
    """
    check_floating("f_divergence_weight", "log_ratio", log_ratio)
    check_choice("f_divergence_weight", "divergence", divergence, WeightedDivergence)
    log_r = full_precision(log_ratio.detach())
    r = log_r.clamp(max=_LARGEST)
    if divergence == "reverse_kl":
        return torch.ones_like(log_r)
    if divergence == "forward_kl":
        return r.exp()
    if divergence == "jeffreys":
        return 1 + r.exp()
    if divergence == "squared_hellinger":
        return (r / 2).exp() / 4
    return torch.sigmoid(log_r if divergence == "js" else -log_r)
