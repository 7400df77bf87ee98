"""HL-Gauss: regression as classification, the target a Gaussian's share of each bin."""

import math
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import RegressionLoss
from lightning_losses.numerics.checks import check_number
from lightning_losses.numerics.probabilities import finite_logarithms, full_precision, log_probabilities, probabilities
from lightning_losses.numerics.reduction import reduce
from lightning_losses.numerics.regression import check_real, refuse_where, regression_values
from lightning_losses.numerics.settings import Positive

Outside = Literal["clamp", "raise"]


class HLGauss(RegressionLoss):
    """HL-Gauss: regression as classification, the target a Gaussian's share of each bin.

    The network has a logit for each of m bins of equal width w from `min_value` to `max_value`. The loss is
    ``-sum_i q_i log p_i`` with p the softmax and ``q_i ∝ Φ((e_{i+1} - y) / σ) - Φ((e_i - y) / σ)``: the mass that a
    normal distribution around the number y, with σ = `sigma_ratio` w, has between the bin's edges, normalised over the
    bins. `decode` gives the prediction, the mean of the bins' centres.

    Args:
        min_value: the lower end of the range.
        max_value: the upper end, above `min_value`.
        sigma_ratio: σ / w, above 0; near 0 the target is one bin alone.
        outside: "clamp" numbers outside of the range to its ends, or "raise".

    Shapes:
        logits: [..., m] with m of at least 2; regression_target: [...].

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; a range that is empty; with ``outside="raise"`` a number outside.

    Source:
        Imani, White, 2018, "Improving Regression Performance with Distributional Losses", arXiv:1806.04613; with this
        σ: Farebrother et al., 2024, "Stop Regressing: Training Value Functions via Classification for Scalable Deep
        RL", arXiv:2403.03950, who take 51 bins.

    Example:
        >>> loss = HLGauss(min_value=0.0, max_value=4.0)
        >>> target = loss.encode(torch.tensor([1.5]), 4)
        >>> [round(share, 4) for share in target.squeeze(0).tolist()], round(loss.decode(target.log()).item(), 4)
        ([0.2352, 0.5068, 0.2352, 0.0229], 1.5457)
    """

    status = "paper"
    evidence = "lionelblonde/hl-gauss-pytorch-jax, a copy of the paper's appendix, not the authors' code"

    min_value: float
    max_value: float
    sigma_ratio: Positive = 0.75
    outside: Outside = "clamp"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self._identifier, "max_value", self.max_value, above=self.min_value)

    def forward(
        self, logits: Float[Tensor, "*values bins"], regression_target: Float[Tensor, "*values"]
    ) -> Float[Tensor, "..."]:
        """Check, evaluate and reduce; the class documents what."""
        return reduce(binned_cross_entropy(self, logits, regression_target), self.reduction)

    def encode(self, values: Float[Tensor, "*values"], bins: int) -> Float[Tensor, "*values bins"]:
        """Each number's distribution over the bins."""
        values = within(self, values).unsqueeze(-1)
        edges = torch.linspace(self.min_value, self.max_value, bins + 1, dtype=values.dtype, device=values.device)
        sigma = self.sigma_ratio * (self.max_value - self.min_value) / bins
        cumulated = torch.erf((edges - values) / (math.sqrt(2) * sigma))
        # A number within the range has at least a bin's half of the mass in it.
        return cumulated.diff(dim=-1) / (cumulated[..., -1:] - cumulated[..., :1])

    def decode(self, logits: Float[Tensor, "*values bins"]) -> Float[Tensor, "*values"]:
        """The numbers that are predicted: the means of the bins' centres."""
        p = probabilities(full_precision(logits))
        half = (self.max_value - self.min_value) / p.shape[-1] / 2
        ends = self.min_value + half, self.max_value - half
        return (p * torch.linspace(*ends, p.shape[-1], dtype=p.dtype, device=p.device)).sum(dim=-1)


def binned_cross_entropy(
    loss: Any, logits: Float[Tensor, "*values bins"], regression_target: Float[Tensor, "*values"]
) -> Float[Tensor, "*values"]:
    """The cross-entropy of each number's distribution over bins; a bin that the logits mask counts as e^-100.

    Args:
        loss: whose `encode` is taken.
        logits: as the loss takes them.
        regression_target: likewise.

    Raises:
        ValueError: shapes or dtypes that do not fit; fewer than two bins.
    """
    name = loss.identifier()
    values, logits = regression_values(name, regression_target, "bins", logits=logits)
    if logits.shape[-1] < 2:
        raise ValueError(f"{name}: logits of shape {list(logits.shape)} came; give at least 2 bins.")
    return -(loss.encode(values, logits.shape[-1]) * finite_logarithms(log_probabilities(logits))).sum(dim=-1)


def within(loss: Any, values: Float[Tensor, "*values"]) -> Float[Tensor, "*values"]:
    """Numbers clamped to a loss's range, or refused outside of it; infinite ones become NaN.

    Raises:
        ValueError: numbers that are not floating-point; with ``outside="raise"``, on the CPU and under `debug`, one
            outside.
    """
    name = loss.identifier()
    check_real(name, "regression_target", values)
    values = full_precision(values.detach())
    if loss.outside == "raise":
        wrong = (values < loss.min_value) | (values > loss.max_value)
        told = f'from {loss.min_value:g} to {loss.max_value:g}, or outside="clamp"'
        refuse_where(wrong, name, "regression_target", values, told)
    return values.clamp(loss.min_value, loss.max_value) + (values - values)
