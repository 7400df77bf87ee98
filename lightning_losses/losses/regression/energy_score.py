"""Energy score: the CRPS of an ensemble of vectors, which sees how their entries depend on each other."""

from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import RegressionLoss
from lightning_losses.losses.regression.crps_ensemble import Estimator, pairs_of
from lightning_losses.numerics.reduction import reduce
from lightning_losses.numerics.regression import regression_values
from lightning_losses.numerics.settings import Bound


class EnergyScore(RegressionLoss):
    """Energy score: the CRPS of an ensemble of vectors, which sees how their entries depend on each other.

    ``mean_m |x_m - y|^β - ½ sum_{m≠k} |x_m - x_k|^β / n`` with Euclidean norms, and n as in `CRPSEnsemble`, which this
    is for vectors of one number. Equal vectors have no gradient by each other. Time and memory are O(B D M²).

    Args:
        estimator: "fair", for training, or "standard".
        exponent: β, above 0 and below 2, where the score is strictly proper.

    Shapes:
        regression_target: [..., D], or [B], vectors of one number; ensemble: that and a last dimension of M members,
        [..., D, M] or [B, M]. M is at least 2 in the fair form.

    Returns:
        A scalar, the mean over the vectors, or [...] or [B] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; one member in the fair form; an exponent out of range.

    Source:
        Gneiting, Raftery, 2007, "Strictly Proper Scoring Rules, Prediction, and Estimation", JASA 102. scoringrules has
        the members before the entries, [..., M, D].

    Example:
        >>> import torch
        >>> ensemble, y = torch.tensor([[[0.0, 0.0], [3.0, -3.0]]]), torch.tensor([[4.0, 0.0]])
        >>> EnergyScore()(ensemble, y).item()  # both 5 away, 6 from each other
        2.0
    """

    status = "paper"
    evidence = "scoringrules"

    estimator: Estimator = "fair"
    exponent: Annotated[float, Bound(above=0, below=2)] = 1.0

    def forward(
        self, ensemble: Float[Tensor, "*values members"], regression_target: Float[Tensor, "*values"]
    ) -> Float[Tensor, "..."]:
        """Check, evaluate and reduce; the class documents what."""
        target, ensemble = regression_values(self._identifier, regression_target, last="M", ensemble=ensemble)
        if target.ndim == 1:
            target, ensemble = target.unsqueeze(-1), ensemble.unsqueeze(-2)
        members = ensemble.shape[-1]
        pairs = pairs_of(self._identifier, members, self.estimator)
        one, other = torch.triu_indices(members, members, offset=1, device=ensemble.device)
        among = self._distance(ensemble.index_select(-1, one) - ensemble.index_select(-1, other)).sum(dim=-1)
        # Each pair stands for two ordered ones.
        value = self._distance(ensemble - target.unsqueeze(-1)).mean(dim=-1) - among / pairs
        return reduce(value, self.reduction)

    def _distance(self, difference: Float[Tensor, "*rows dim members"]) -> Float[Tensor, "*rows members"]:
        """The norms to the power of the exponent; 0 has no slope."""
        squared = difference.square().sum(dim=-2)
        zero = squared == 0
        return squared.masked_fill(zero, 1.0).pow(self.exponent / 2).masked_fill(zero, 0.0)
