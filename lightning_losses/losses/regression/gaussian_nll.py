"""Gaussian negative log-likelihood: the mean and the variance of a number are learned together."""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import RegressionLoss
from lightning_losses.numerics.reduction import reduce
from lightning_losses.numerics.regression import refuse_where, regression_values
from lightning_losses.numerics.settings import Positive


class GaussianNLL(RegressionLoss):
    """Gaussian negative log-likelihood: the mean and the variance of a number are learned together.

    ``½ (log v + (y - μ)² / v)`` with ``v = max(σ², floor)``. The best variance is the squared error. Where the mean is
    far off, a large variance makes its gradient small: see `BetaNLL`.

    Args:
        floor: the least variance, above 0.
        full: add ``½ log 2π``, so that the value is the negative log-likelihood.
        floor_gradient: below the floor the variance's gradient is that at the floor ("straight_through"), so that a
            collapsed variance recovers, or 0 ("clamp").

    Shapes:
        mean, variance, regression_target: [...], all the same.

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; a variance below 0; a floor of 0 or less.

    Source:
        Nix, Weigend, 1994, "Estimating the mean and variance of the target probability distribution", ICNN 1994. Equal
        to ``torch.nn.GaussianNLLLoss``, which broadcasts and always lets the gradient through the floor.

    Example:
        >>> import torch
        >>> mean, variance, y = torch.zeros(1), torch.ones(1), torch.ones(1)
        >>> GaussianNLL()(mean, variance, y).item()
        0.5
    """

    status = "paper"
    evidence = "pytorch/pytorch, not its authors': torch.nn.functional.gaussian_nll_loss"

    floor: Positive = 1e-6
    full: bool = False
    floor_gradient: Literal["straight_through", "clamp"] = "straight_through"

    def forward(
        self,
        mean: Float[Tensor, "*values"],
        variance: Float[Tensor, "*values"],
        regression_target: Float[Tensor, "*values"],
    ) -> Float[Tensor, "..."]:
        """Check, evaluate and reduce; the class documents what."""
        target, mean, variance = regression_values(self._identifier, regression_target, mean=mean, variance=variance)
        refuse_where(variance < 0, self._identifier, "variance", variance, "of at least 0")
        at_floor = self.floor + (variance - variance.detach() if self.floor_gradient == "straight_through" else 0.0)
        floored = torch.where(variance < self.floor, at_floor, variance)
        value = gaussian_nll(mean, floored, target)
        return reduce(value + 0.5 * math.log(2 * math.pi) if self.full else value, self.reduction)


def gaussian_nll(
    mean: Float[Tensor, "*values"], variance: Float[Tensor, "*values"], target: Float[Tensor, "*values"]
) -> Float[Tensor, "*values"]:
    """``½ (log σ² + (y - μ)² / σ²)``, of a variance above 0."""
    return 0.5 * (variance.log() + (target - mean).square() / variance)
