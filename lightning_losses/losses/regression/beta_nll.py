"""β-NLL: Gaussian negative log-likelihood in which samples with a large variance keep their weight."""

from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import RegressionLoss
from lightning_losses.losses.regression.gaussian_nll import gaussian_nll
from lightning_losses.numerics.reduction import reduce
from lightning_losses.numerics.regression import refuse_where, regression_values
from lightning_losses.numerics.settings import Share


class BetaNLL(RegressionLoss):
    """β-NLL: Gaussian negative log-likelihood in which samples with a large variance keep their weight.

    ``sg(σ²)^β ½ (log σ² + (y - μ)² / σ²)`` summed over a vector's entries, sg without gradient. The gradient by the
    mean is ``σ^(2β-2) (μ - y)``: β = 0 is the likelihood, β = 1 weighs errors as the squared error does. The value is
    not comparable from step to step, since its weights move: watch `GaussianNLL` beside it.

    Args:
        beta: β, in [0, 1].

    Shapes:
        mean, variance, regression_target: [B] or [..., D], all the same.

    Returns:
        A scalar, the mean over the samples, or [B] or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; a variance of 0 or less; a beta outside [0, 1].

    Source:
        Seitzer, Tavakoli, Antic, Martius, 2022, "On the Pitfalls of Heteroscedastic Uncertainty Estimation with
        Probabilistic Neural Networks", arXiv:2203.09168, and its code martius-lab/beta-nll. No constant ``½ log 2π``.

    Example:
        >>> import torch
        >>> mean, variance, y = torch.zeros(1), torch.full((1,), 4.0), torch.full((1,), 2.0)
        >>> round(BetaNLL(beta=0.5)(mean, variance, y).item(), 4)  # 2 · ½ (log 4 + 1)
        2.3863
    """

    status = "confirmed"
    evidence = "martius-lab/beta-nll"

    beta: Share = 0.5

    def forward(
        self,
        mean: Float[Tensor, "*values"],
        variance: Float[Tensor, "*values"],
        regression_target: Float[Tensor, "*values"],
    ) -> Float[Tensor, "..."]:
        """Check, evaluate and reduce; the class documents what."""
        target, mean, variance = regression_values(self._identifier, regression_target, mean=mean, variance=variance)
        refuse_where(variance <= 0, self._identifier, "variance", variance, "above 0")
        value = variance.detach().pow(self.beta) * gaussian_nll(mean, variance, target)
        return reduce(value if value.ndim == 1 else value.sum(dim=-1), self.reduction)
