"""Soft likelihood ratio: the expected logarithm of each class's odds."""

from typing import Annotated

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.losses.kinds import RowLoss
from lightning_losses.numerics.probabilities import probabilities
from lightning_losses.numerics.reduction import reduce
from lightning_losses.numerics.rows import classification_rows
from lightning_losses.numerics.settings import Bound


class SoftLikelihoodRatio(RowLoss):
    """Soft likelihood ratio: the expected logarithm of each class's odds, whose gradient certainty does not end.

    ``-sum_c p_c log(p_c / (1 - p_c) + ε)`` with p the softmax, of which more than `clip` counts as `clip`. Entropy's
    gradient vanishes as a prediction becomes certain; this one's is that of the logits themselves, until p reaches
    `clip`.

    Args:
        clip: the largest probability, above 0 and below 1; classes above it have no gradient.
        epsilon: ε, at least 1e-30.

    Shapes:
        logits: [..., C]; target (optional, only marks ignored samples): [...] or [..., C].

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; a setting outside of its range.

    Source:
        Mummadi, Hutmacher, Rambach, Levinkov, Brox, Metzen, 2021, "Test-Time Adaptation to Distribution Shift by
        Confidence Maximization and Input Transformation", arXiv:2106.14999, without its term that keeps the classes
        balanced; clip and ε are those of mariodoebler/test-time-adaptation.

    Example:
        >>> import torch
        >>> round(SoftLikelihoodRatio()(torch.zeros(1, 4)).item(), 4)
        1.0986
    """

    status = "paper"
    evidence = "mariodoebler/test-time-adaptation, not the authors' code"

    clip: Annotated[float, Bound(above=0, below=1)] = 0.99
    epsilon: Annotated[float, Bound(least=1e-30)] = 1e-5

    def forward(
        self, logits: Float[Tensor, "*rows classes"], target: Shaped[Tensor, "..."] | None = None
    ) -> Float[Tensor, "..."]:
        """Evaluate the loss; see the class."""
        rows = classification_rows(self._identifier, logits, target, self.ignore_index)
        p = probabilities(rows.logits)
        # A clip that the dtype rounds to 1 would make the odds infinite.
        p = p.clamp(max=min(self.clip, 1 - torch.finfo(p.dtype).eps / 2))
        return reduce(-(p * (p / (1 - p) + self.epsilon).log()).sum(dim=-1), self.reduction, rows.kept)
