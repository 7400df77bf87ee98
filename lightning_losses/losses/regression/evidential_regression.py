"""Evidential regression: one network predicts a distribution over Gaussians, and with it two kinds of uncertainty."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import RegressionLoss
from lightning_losses.numerics.reduction import reduce
from lightning_losses.numerics.regression import refuse_where, regression_values
from lightning_losses.numerics.settings import Weight


class EvidentialRegression(RegressionLoss):
    """Evidential regression: one network predicts a distribution over Gaussians, and with it two kinds of uncertainty.

    The four numbers γ, ν, α, β are those of a normal-inverse-gamma distribution; under it y has Student's t with 2α
    degrees of freedom around γ, of squared scale ``β (1 + ν) / (ν α)``. The loss is its negative logarithm and a
    penalty of evidence where the prediction is wrong, with Ω = 2β (1 + ν):
    ``½ log(π/ν) - α log Ω + (α + ½) log(ν (y - γ)² + Ω) + log Γ(α) - log Γ(α + ½) + coefficient |y - γ| (2ν + α)``.
    The likelihood depends on ν and β through the scale alone, so that the penalty decides between them.

    Args:
        coefficient: of the penalty, at least 0.

    Shapes:
        evidential: [..., 4], γ, ν, α, β in this order, with ν and β above 0 and α above 1, such as
        ``γ, softplus(·), 1 + softplus(·), softplus(·)``; regression_target: [...].

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; other than four numbers; ν or β of 0 or less, α of 1 or less.

    Source:
        Amini, Schwarting, Soleimany, Rus, 2020, "Deep Evidential Regression", arXiv:1910.02600, and its code
        aamini/evidential-deep-learning, whose function has the coefficient 1; its examples and the paper have 0.01. As
        there, the error in the penalty has a gradient.

    Example:
        >>> import torch
        >>> evidential, y = torch.tensor([[0.0, 1.0, 1.5, 1.0]]), torch.tensor([0.0])
        >>> round(EvidentialRegression()(evidential, y).item(), 4)  # t of 3 degrees of freedom, scale² 4/3
        1.1447
    """

    status = "confirmed"
    evidence = "aamini/evidential-deep-learning"

    coefficient: Weight = 0.01

    def forward(
        self, evidential: Float[Tensor, "*values 4"], regression_target: Float[Tensor, "*values"]
    ) -> Float[Tensor, "..."]:
        """Check, evaluate and reduce; the class documents what."""
        target, evidential = regression_values(self._identifier, regression_target, last="4", evidential=evidential)
        if evidential.shape[-1] != 4:
            raise ValueError(
                f"{self._identifier}: evidential of shape {list(evidential.shape)} came; give four numbers of each "
                "target, γ, ν, α and β."
            )
        gamma, nu, alpha, beta = evidential.unbind(dim=-1)
        for name, values, least in (("ν", nu, 0), ("α", alpha, 1), ("β", beta, 0)):
            refuse_where(values <= least, self._identifier, f"evidential's {name}", values, f"above {least}")
        omega = 2 * beta * (1 + nu)
        # So taken apart, no terms in α cancel.
        nll = (
            0.5 * (math.log(math.pi) - nu.log() + omega.log())
            + (alpha + 0.5) * torch.log1p(nu * (target - gamma).square() / omega)
            + _log_gamma_ratio(alpha)
        )
        return reduce(nll + self.coefficient * (target - gamma).abs() * (2 * nu + alpha), self.reduction)


def _log_gamma_ratio(alpha: Float[Tensor, "*values"]) -> Float[Tensor, "*values"]:
    """``log Γ(α) - log Γ(α + ½)`` for α of at least 1; of a large one by the series that it approaches."""
    large = alpha > (32 if alpha.dtype == torch.float64 else 8)
    small, inverse = torch.where(large, 1.0, alpha), torch.where(large, alpha, 1.0).reciprocal()
    square = inverse.square()
    series = 0.5 * inverse.log() + inverse * (1 / 8 - square * (1 / 192 - square * (1 / 640 - square * (17 / 14336))))
    return torch.where(large, series, torch.lgamma(small) - torch.lgamma(small + 0.5))


class EvidentialUncertainty(NamedTuple):
    """What a normal-inverse-gamma distribution says of a number: its mean, and two variances.

    Attributes:
        mean: γ.
        aleatoric: ``β / (α - 1)``, the expected variance of the data; large as α goes to 1.
        epistemic: ``β / (ν (α - 1))``, the variance of the mean.
    """

    mean: Float[Tensor, "*values"]
    aleatoric: Float[Tensor, "*values"]
    epistemic: Float[Tensor, "*values"]


def evidential_uncertainty(evidential: Float[Tensor, "*values 4"]) -> EvidentialUncertainty:
    """The mean and the two variances of `evidential`, γ, ν, α and β.

    Example:
        >>> evidential_uncertainty(torch.tensor([0.5, 2.0, 3.0, 4.0])).epistemic.item()
        1.0
    """
    gamma, nu, alpha, beta = evidential.unbind(dim=-1)
    aleatoric = beta / (alpha - 1)
    return EvidentialUncertainty(gamma, aleatoric, aleatoric / nu)
