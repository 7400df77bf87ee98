"""Two-hot: regression as classification, the target shared by the two nearest of fixed numbers."""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import RegressionLoss
from lightning_losses.losses.regression.hl_gauss import Outside, binned_cross_entropy, within
from lightning_losses.numerics.checks import check_number
from lightning_losses.numerics.probabilities import full_precision, probabilities
from lightning_losses.numerics.reduction import reduce


class TwoHot(RegressionLoss):
    """Two-hot: regression as classification, the target shared by the two nearest of fixed numbers.

    The network has a logit for each of m numbers, spaced equally from `min_value` to `max_value`, both included. The
    loss is ``-sum_i q_i log p_i`` with p the softmax; q gives each neighbour of the number y its share, so that y is
    their mean: `decode` of the target is y itself. `decode` gives the prediction, the mean of the m numbers.

    Args:
        min_value: the lowest number.
        max_value: the highest one, above `min_value`.
        outside: "clamp" numbers outside of the range to its ends, or "raise".

    Shapes:
        logits: [..., m] with m of at least 2; regression_target: [...].

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; a range that is empty; with ``outside="raise"`` a number outside.

    Source:
        Schrittwieser et al., 2020, "Mastering Atari, Go, Chess and Shogi by Planning with a Learned Model",
        arXiv:1911.08265, appendix F, without their scaling of the numbers.

    Example:
        >>> loss = TwoHot(min_value=0.0, max_value=3.0)
        >>> target = loss.encode(torch.tensor([1.25]), 4)
        >>> target.tolist(), loss.decode(target.log()).item()
        ([[0.0, 0.75, 0.25, 0.0]], 1.25)
    """

    status = "paper"
    evidence = "an evaluation of the formula by numpy"

    min_value: float
    max_value: float
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
        """Each number's shares of its two neighbours."""
        place = (within(self, values) - self.min_value) * ((bins - 1) / (self.max_value - self.min_value))
        distance = torch.arange(bins, dtype=place.dtype, device=place.device) - place.unsqueeze(-1)
        return (1 - distance.abs()).clamp(min=0)

    def decode(self, logits: Float[Tensor, "*values bins"]) -> Float[Tensor, "*values"]:
        """The numbers that are predicted: the means of the fixed ones."""
        p = probabilities(full_precision(logits))
        numbers = torch.linspace(self.min_value, self.max_value, p.shape[-1], dtype=p.dtype, device=p.device)
        return (p * numbers).sum(dim=-1)
