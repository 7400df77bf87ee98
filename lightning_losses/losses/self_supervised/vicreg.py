"""VICReg: views agree, every feature varies over the batch, and no two features covary."""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import TwoViewLoss, Views
from lightning_losses.numerics.settings import Positive, Weight
from lightning_losses.numerics.vectors import off_diagonal_squares, refuse_powers


class VICReg(TwoViewLoss):
    """VICReg: views agree, every feature varies over the batch, and no two features covary.

    ``w_i mean (a - b)² + w_v [v(a) + v(b)] / 2 + w_c [c(a) + c(b)]`` with
    ``v = mean_j max(0, γ - sqrt(Var_j + eps))`` and ``c = sum_{i ≠ j} Cov_ij² / D``, both unbiased. The batch is that
    of all processes. The value takes D² memory.

    Args:
        invariance_weight: w_i, at least 0.
        variance_weight: w_v, at least 0.
        covariance_weight: w_c, at least 0.
        deviation: γ, the standard deviation that features shall have, above 0.
        eps: added to variances, above 0.

    Shapes:
        embeddings, embeddings_b: [B, D].

    Returns:
        A scalar; 0 for a batch of one, whose variances are not known.

    Raises:
        ValueError: shapes or dtypes that do not fit; weights below 0; other settings of 0 or less; on a CPU and under
            `debug`, embeddings whose fourth powers are too large.

    Source:
        Bardes, Ponce, LeCun, 2022, "VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised
        Learning", arXiv:2105.04906, and its code facebookresearch/vicreg, which halves the variance term where the
        paper does not.

    Example:
        >>> round(VICReg()(torch.zeros(4, 2), torch.zeros(4, 2)).item(), 4)  # collapsed
        24.75
    """

    status = "confirmed"
    evidence = "facebookresearch/vicreg"

    invariance_weight: Weight = 25.0
    variance_weight: Weight = 25.0
    covariance_weight: Weight = 1.0
    deviation: Positive = 1.0
    eps: Positive = 1e-4

    def measure(self, given: Views) -> Float[Tensor, ""]:
        """The weighted sum of the three terms."""
        refuse_powers(self._identifier, 4, **given._asdict())
        value = self.invariance_weight * (given.embeddings - given.embeddings_b).square().mean()
        for view in given:
            centred = view - view.mean(dim=0, keepdim=True)
            covariance = centred.mT @ centred / (len(view) - 1)
            spread = (covariance.diagonal() + self.eps).sqrt()
            value = value + self.variance_weight * torch.relu(self.deviation - spread).mean() / 2
            value = value + self.covariance_weight * off_diagonal_squares(covariance) / view.shape[1]
        return value
