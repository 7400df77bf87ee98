"""Log-Taylor-softmax: cross-entropy of a softmax whose exponentials are their Taylor polynomials."""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import ClassificationLoss, ClassificationRows
from lightning_losses.numerics.divergences import cross_entropy
from lightning_losses.numerics.probabilities import log_probabilities


class LogTaylorSoftmax(ClassificationLoss):
    """Log-Taylor-softmax: cross-entropy of a softmax whose exponentials are their Taylor polynomials.

    ``-log t(z_y) / sum_k t(z_k)`` with ``t(z) = 1 + z + z^2 / 2``, which is at least 1/2. It is near softmax for logits
    near 0. t is smallest at z = -1: a logit far below that counts as one far above.

    Shapes:
        logits: [..., C]; target: [...] class indices, or [..., C] probabilities. A class that is masked by -inf has no
        probability.

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit.

    Source:
        de Brébisson, Vincent, 2016, "An Exploration of Softmax Alternatives Belonging to the Spherical Loss Family",
        arXiv:1511.05042.

    Example:
        >>> round(LogTaylorSoftmax()(torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([0])).item(), 4)
        0.2624
    """

    status = "paper"
    evidence = "an independent evaluation of the formula"

    def rows(self, given: ClassificationRows) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        absent = torch.isneginf(given.logits)
        # Twice the polynomial, without cancellation.
        scores = torch.log((given.logits.masked_fill(absent, 0.0) + 1).square() + 1).masked_fill(absent, -torch.inf)
        return cross_entropy(log_probabilities(scores), given.target)
