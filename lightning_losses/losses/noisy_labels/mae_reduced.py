"""Reduced mean absolute error: the probability that the network leaves to the wrong classes."""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import CrossEntropyFunction


class MAEReduced(CrossEntropyFunction):
    """Reduced mean absolute error: the probability that the network leaves to the wrong classes.

    ``1 - p`` with p the probability of the target: half of the absolute error ``sum_k |e_k - p_k|`` from the one-hot
    target e. Its values over all labels of a sample add up to C - 1, whatever the network says, so that symmetric
    noise does not change which predictions minimise it; but it learns slowly, the more so the more classes there are.
    It is a function of cross-entropy alone.

    Shapes:
        logits: [..., C]; target: [...] class indices.

    Returns:
        A scalar, or [...] without reduction; in [0, 1].

    Raises:
        ValueError: shapes or dtypes that do not fit; a target of probabilities.

    Source:
        Ghosh, Kumar, Sastry, 2017, "Robust Loss Functions under Label Noise for Deep Neural Networks",
        arXiv:1712.09482. Implementations differ by a factor of 2.

    Example:
        >>> MAEReduced()(torch.zeros(1, 4), torch.tensor([0])).item()
        0.75
    """

    status = "paper"
    evidence = "HanxunH/Active-Passive-Losses, not the authors' code"

    def of_cross_entropy(self, cross_entropy: Float[Tensor, "*rows"]) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        return -torch.expm1(-cross_entropy)
