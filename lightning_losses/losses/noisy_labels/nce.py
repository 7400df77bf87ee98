"""Normalised cross-entropy: cross-entropy of the target, divided by the sum over all possible labels."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.losses.kinds import ClassificationLoss, ClassificationRows
from lightning_losses.numerics.probabilities import finite_logarithms, log_probabilities
from lightning_losses.numerics.rows import pick


class NCE(ClassificationLoss):
    """Normalised cross-entropy: cross-entropy of the target, divided by the sum over all possible labels.

    ``log p_y / sum_k log p_k``. Its values over all labels of a sample add up to 1, whatever the network says, so that
    symmetric noise does not change which predictions minimise it. Alone it learns too little; see `NCEAndRCE`.

    Shapes:
        logits: [..., C]; target: [...] class indices. A class that is masked by -inf is left out of the sum; as a
        target it counts as if its probability were e^-100.

    Returns:
        A scalar, or [...] without reduction; in [0, 1].

    Raises:
        ValueError: shapes or dtypes that do not fit; a target of probabilities.

    Source:
        Ma, Huang, Wang, Romano, Erfani, Bailey, 2020, "Normalized Loss Functions for Deep Learning with Noisy Labels",
        arXiv:2006.13554. Noise-contrastive estimation, also called NCE, is another method.

    Example:
        >>> NCE()(torch.zeros(1, 4), torch.tensor([0])).item()
        0.25
    """

    status = "confirmed"
    evidence = "HanxunH/Active-Passive-Losses"
    soft_targets = False

    def rows(self, given: ClassificationRows) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        return normalized_cross_entropy(log_probabilities(given.logits), given.target)


def normalized_cross_entropy(
    log_p: Float[Tensor, "*rows classes"], target: Int[Tensor, "*rows"]
) -> Float[Tensor, "*rows"]:
    """``log p_y / sum_k log p_k``."""
    return normalized(torch.neg, log_p, target)


def normalized(
    cost: Callable[[Float[Tensor, "*rows classes"]], Float[Tensor, "*rows classes"]],
    log_p: Float[Tensor, "*rows classes"],
    target: Int[Tensor, "*rows"],
) -> Float[Tensor, "*rows"]:
    """What the target costs, divided by the sum of what every class would cost as the target.

    Args:
        cost: what a target costs, by its log-probability.
        log_p: log-probabilities; a class of -inf costs nothing, unless it is the target.
        target: class indices.
    """
    absent = torch.isneginf(log_p).scatter(-1, target.unsqueeze(-1), False)
    each = cost(finite_logarithms(log_p)).masked_fill(absent, 0.0)
    # A class that is alone costs 0 of 0.
    return pick(each, target) / each.sum(dim=-1).clamp(min=torch.finfo(each.dtype).tiny)
