"""The loss of α-entmax: a softmax that gives unlikely classes no probability at all."""

from typing import Annotated

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.losses.kinds import ClassificationLoss, ClassificationRows
from lightning_losses.numerics.divergences import cross_entropy
from lightning_losses.numerics.settings import Bound
from lightning_losses.numerics.tempered import tempered_log_probabilities, tempered_logarithm


class EntmaxLoss(ClassificationLoss):
    """The loss of α-entmax: a softmax that gives unlikely classes no probability at all.

    ``sum_k (p_k - q_k) z_k + H(p) - H(q)`` with the target q, Tsallis' entropy
    ``H(p) = (1 - sum_k p_k^α) / (α (α - 1))``, and p the α-entmax of the logits, which maximises
    ``sum_k p_k z_k + H(p)``. Its gradient is p - q. It is 0, with zero gradient, as soon as the target's logit is
    1 / (α - 1) above every other. Towards α = 1 it is cross-entropy, at 2 it is `SparsemaxLoss`.

    Args:
        alpha: α, above 1 and at most 2; the larger, the fewer classes have a probability.

    Shapes:
        logits: [..., C]; target: [...] class indices, or [..., C] probabilities.

    Returns:
        A scalar, or [...] without reduction; at least 0.

    Raises:
        ValueError: shapes or dtypes that do not fit; an alpha outside of its range.

    Source:
        Peters, Niculae, Martins, 2019, "Sparse Sequence-to-Sequence Models", arXiv:1905.05702, with α = 1.5, and its
        code deep-spin/entmax. Predict by `tempered_log_probabilities(logits, 2 - α)`. Probabilities may be exactly 0,
        where the likelihood of a class is then infinite.

    Example:
        >>> loss = EntmaxLoss(alpha=1.5, reduction="none")
        >>> loss(torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 0]))
        tensor([0.0000, 0.3905])
    """

    status = "confirmed"
    evidence = "deep-spin/entmax"

    alpha: Annotated[float, Bound(above=1, most=2)] = 1.5

    def rows(self, given: ClassificationRows) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        return entmax_loss(given.logits, given.target, self.alpha)


def entmax_loss(
    logits: Float[Tensor, "*rows classes"], target: Shaped[Tensor, "..."], alpha: float
) -> Float[Tensor, "*rows"]:
    """The loss of each row; the class documents it."""
    below = logits - logits.detach().amax(dim=-1, keepdim=True)
    log_p = tempered_log_probabilities(below, 2 - alpha)
    mean_score = (log_p.exp() * below.masked_fill(torch.isneginf(below), 0.0)).sum(dim=-1)
    value = mean_score + cross_entropy(below, target) + _tsallis_entropy(log_p, alpha)
    return value - _tsallis_entropy(target.log(), alpha) if target.is_floating_point() else value


def _tsallis_entropy(log_p: Float[Tensor, "*rows classes"], alpha: float) -> Float[Tensor, "*rows"]:
    """``(1 - sum_k p_k^α) / (α (α - 1))`` as a mean, which has no cancellation near α = 1."""
    return -(log_p.exp() * tempered_logarithm(log_p, 2 - alpha)).sum(dim=-1) / alpha
