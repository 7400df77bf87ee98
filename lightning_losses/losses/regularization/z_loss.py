"""The z-loss: keeps the softmax's normaliser near 1, so that logits do not drift."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.losses.kinds import RowLoss
from lightning_losses.numerics.reduction import reduce
from lightning_losses.numerics.rows import classification_rows
from lightning_losses.numerics.settings import Weight


class ZLoss(RowLoss):
    """The z-loss: added to cross-entropy, it keeps output logits from drifting.

    ``c (log Σ_k exp z_k)²``. Softmax doesn't change when all logits grow together, but this does: so it stops them.

    Args:
        coefficient: c, at least 0.

    Shapes:
        logits: [..., C]; target (optional, only marks ignored samples): [...] or [..., C].

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; a negative coefficient.

    Source:
        Chowdhery et al., 2022, "PaLM: Scaling Language Modeling with Pathways", arXiv:2204.02311; for training
        stability: Wortsman et al., 2023, arXiv:2309.14322. For vocabularies, `linear_cross_entropy` computes it without
        storing the logits.

    Example:
        >>> import math
        >>> round(ZLoss(coefficient=1.0)(torch.zeros(2, 4)).item() / math.log(4) ** 2, 4)
        1.0
    """

    status = "paper"
    evidence = "an independent evaluation of the formula"

    coefficient: Weight = 1e-4

    def forward(
        self, logits: Float[Tensor, "*rows classes"], target: Shaped[Tensor, "..."] | None = None
    ) -> Float[Tensor, "..."]:
        """Evaluate the loss; see the class."""
        rows = classification_rows(self._identifier, logits, target, self.ignore_index)
        value = self.coefficient * torch.logsumexp(rows.logits, dim=-1).square()
        return reduce(value, self.reduction, rows.kept)
