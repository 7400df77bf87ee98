"""Log-spherical-softmax: cross-entropy of probabilities in proportion to squared logits."""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import ClassificationLoss, ClassificationRows
from lightning_losses.numerics.divergences import cross_entropy
from lightning_losses.numerics.probabilities import log_probabilities
from lightning_losses.numerics.settings import Positive


class LogSphericalSoftmax(ClassificationLoss):
    """Log-spherical-softmax: cross-entropy of probabilities in proportion to squared logits.

    ``-log (z_y^2 + ε) / sum_k (z_k^2 + ε)``. A logit and its negative mean the same, so predict by the largest square.

    Args:
        eps: ε, above 0; without it a logit of 0 would cost infinitely much.

    Shapes:
        logits: [..., C]; target: [...] class indices, or [..., C] probabilities. A class that is masked by -inf has no
        probability.

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; an ε of 0 or less.

    Source:
        de Brébisson, Vincent, 2016, "An Exploration of Softmax Alternatives Belonging to the Spherical Loss Family",
        arXiv:1511.05042, who tune ε.

    Example:
        >>> round(LogSphericalSoftmax(eps=1.0)(torch.tensor([[1.0, -1.0, 0.0]]), torch.tensor([0])).item(), 4)
        0.9163
    """

    status = "paper"
    evidence = "an independent evaluation of the formula"

    eps: Positive = 0.1

    def rows(self, given: ClassificationRows) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        absent = torch.isneginf(given.logits)
        scores = torch.log(given.logits.masked_fill(absent, 0.0).square() + self.eps).masked_fill(absent, -torch.inf)
        return cross_entropy(log_probabilities(scores), given.target)
