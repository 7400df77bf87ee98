"""The Brier score as a loss: squared distance of the probabilities from the target."""

from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import ClassificationLoss, ClassificationRows
from lightning_losses.numerics.probabilities import log_probabilities
from lightning_losses.numerics.rows import one_hot


class Brier(ClassificationLoss):
    """The Brier score as a loss: squared distance of the probabilities from the target.

    ``sum_c (p_c - q_c)²`` with p the softmax and q the one-hot (or given) target; in [0, 2]. It is a proper score and
    bounded: a mistake costs at most 2.

    Shapes:
        logits: [..., C]; target: [...] class indices or [..., C] probabilities.

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit.

    Source:
        Brier, 1950, "Verification of Forecasts Expressed in Terms of Probability".

    Example:
        >>> import torch
        >>> Brier()(torch.zeros(1, 2), torch.tensor([0])).item()
        0.5
    """

    status = "paper"
    evidence = "no golden values; the Brier score of the metrics in its tests"

    def rows(self, given: ClassificationRows) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        soft = given.target if given.target.is_floating_point() else one_hot(given.target, given.logits)
        return (log_probabilities(given.logits).exp() - soft).square().sum(dim=-1)
