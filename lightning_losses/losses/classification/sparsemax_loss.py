"""The loss of sparsemax: the logits' nearest distribution, which gives unlikely classes no probability."""

from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.classification.entmax_loss import entmax_loss
from lightning_losses.losses.kinds import ClassificationLoss, ClassificationRows


class SparsemaxLoss(ClassificationLoss):
    """The loss of sparsemax: the logits' nearest distribution, which gives unlikely classes no probability.

    ``sum_k (p_k - q_k) z_k + (sum_k q_k^2 - sum_k p_k^2) / 2`` with the target q and p the point of the simplex that is
    nearest to the logits. Its gradient is p - q. It is 0, with zero gradient, as soon as the target's logit is 1 above
    every other. It is `EntmaxLoss` at α = 2.

    Shapes:
        logits: [..., C]; target: [...] class indices, or [..., C] probabilities.

    Returns:
        A scalar, or [...] without reduction; at least 0.

    Raises:
        ValueError: shapes or dtypes that do not fit.

    Source:
        Martins, Astudillo, 2016, "From Softmax to Sparsemax: A Sparse Model of Attention and Multi-Label
        Classification", arXiv:1602.02068, and the code deep-spin/entmax. Predict by
        `tempered_log_probabilities(logits, 0)`. Probabilities may be exactly 0, where the likelihood of a class is then
        infinite.

    Example:
        >>> import torch
        >>> SparsemaxLoss(reduction="none")(torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 0]))
        tensor([0.0000, 0.2500])
    """

    status = "confirmed"
    evidence = "deep-spin/entmax"

    def rows(self, given: ClassificationRows) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        return entmax_loss(given.logits, given.target, 2.0)
