"""CRPS of a Gaussian: mean and standard deviation are learned by a score in the number's own unit."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import RegressionLoss
from lightning_losses.numerics.reduction import reduce
from lightning_losses.numerics.regression import refuse_where, regression_values


class CRPSGaussian(RegressionLoss):
    """CRPS of a Gaussian: mean and standard deviation are learned by a score in the number's own unit.

    ``σ (w (2 Φ(w) - 1) + 2 φ(w) - 1/√π)`` with ``w = (y - μ) / σ``, which is the integral of ``(F(x) - 1{x >= y})²``.
    At least 0, and ``|y - μ|`` as σ goes to 0. The slope by μ is ``1 - 2 Φ(w)``: bounded, where that of the likelihood
    grows with the error.

    Shapes:
        mean, standard_deviation, regression_target: [...], all the same. It is the standard deviation, not the
        variance.

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; a standard deviation below 0.

    Source:
        Gneiting, Raftery, 2007, "Strictly Proper Scoring Rules, Prediction, and Estimation", JASA 102.

    Example:
        >>> import torch
        >>> round(CRPSGaussian()(torch.zeros(1), torch.ones(1), torch.zeros(1)).item(), 4)
        0.2337
    """

    status = "paper"
    evidence = "properscoring and scoringrules, and the integral"

    def forward(
        self,
        mean: Float[Tensor, "*values"],
        standard_deviation: Float[Tensor, "*values"],
        regression_target: Float[Tensor, "*values"],
    ) -> Float[Tensor, "..."]:
        """Check, evaluate and reduce; the class documents what."""
        target, mean, scale = regression_values(
            self._identifier, regression_target, mean=mean, standard_deviation=standard_deviation
        )
        refuse_where(scale < 0, self._identifier, "standard_deviation", scale, "of at least 0")
        # Neither the quotient nor its slope overflows. Where it is cut there is no slope: the value is stationary in w.
        least = torch.finfo(scale.dtype).tiny ** 0.4
        w = (target - mean) / scale.clamp(min=least)
        density = torch.exp(-0.5 * w.square()) / math.sqrt(2 * math.pi)
        value = (target - mean) * torch.erf(w / math.sqrt(2)) + scale * (2 * density - 1 / math.sqrt(math.pi))
        return reduce(value, self.reduction)
