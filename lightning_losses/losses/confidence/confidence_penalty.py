"""Confidence penalty: the negative entropy of the predictions."""

from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.losses.kinds import RowLoss
from lightning_losses.numerics.divergences import entropy
from lightning_losses.numerics.probabilities import log_probabilities
from lightning_losses.numerics.reduction import reduce
from lightning_losses.numerics.rows import classification_rows


class ConfidencePenalty(RowLoss):
    """Confidence penalty: the negative entropy of the predictions, to be added to cross-entropy with a small weight.

    ``sum_c p_c log p_c`` with p the softmax; in [-log C, 0]. With a negative weight in the objective it is entropy that
    costs, as in ``objective=entropy_penalised_ce``: predictions then become more certain.

    Shapes:
        logits: [..., C]; target (optional, only marks ignored samples): [...] or [..., C].

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit.

    Source:
        Pereyra et al., 2017, "Regularizing Neural Networks by Penalizing Confident Output Distributions",
        arXiv:1701.06548, with a weight of 0.1. In code that also averages over the classes it is C times smaller.

    Example:
        >>> import torch
        >>> round(ConfidencePenalty()(torch.zeros(1, 4)).item(), 4)
        -1.3863
    """

    status = "paper"
    evidence = "an independent evaluation of cross-entropy with a penalty of entropy"

    def forward(
        self, logits: Float[Tensor, "*rows classes"], target: Shaped[Tensor, "..."] | None = None
    ) -> Float[Tensor, "..."]:
        """Evaluate the loss; see the class."""
        rows = classification_rows(self._identifier, logits, target, self.ignore_index)
        return reduce(-entropy(log_probabilities(rows.logits)), self.reduction, rows.kept)
