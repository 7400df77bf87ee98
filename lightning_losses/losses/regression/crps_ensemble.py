"""CRPS of an ensemble: the members' mean distance from the number, less half of that from each other."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import RegressionLoss
from lightning_losses.numerics.reduction import reduce
from lightning_losses.numerics.regression import regression_values

Estimator = Literal["fair", "standard"]


class CRPSEnsemble(RegressionLoss):
    """CRPS of an ensemble: the members' mean distance from the number, less half of that from each other.

    ``mean_m |x_m - y| - ½ sum_{m,k} |x_m - x_k| / n``, with n = M (M - 1) in the fair form, which estimates the score
    of the distribution that the members are drawn from, and n = M² in the standard one, which is that of the members
    themselves and rewards too small a spread. The fair one may be below 0 for a number. Members that are equal do not
    push each other apart. Time and memory are those of sorting.

    Args:
        estimator: "fair", for training, or "standard".

    Shapes:
        ensemble: [..., M], M of at least 2 in the fair form; regression_target: [...].

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; one member, of which there is no fair form.

    Source:
        Ferro, 2014, "Fair scores for ensemble forecasts", Quarterly Journal of the Royal Meteorological Society 140. In
        scoringrules "nrg", "qd" and "int" are the standard form, "fair" and "pwm" the fair one.

    Example:
        >>> import torch
        >>> ensemble, y = torch.tensor([[0.0, 2.0]]), torch.tensor([1.0])
        >>> CRPSEnsemble()(ensemble, y).item(), CRPSEnsemble(estimator="standard")(ensemble, y).item()
        (0.0, 0.5)
    """

    status = "paper"
    evidence = "scoringrules and properscoring"

    estimator: Estimator = "fair"

    def forward(
        self, ensemble: Float[Tensor, "*values members"], regression_target: Float[Tensor, "*values"]
    ) -> Float[Tensor, "..."]:
        """Check, evaluate and reduce; the class documents what."""
        target, ensemble = regression_values(self._identifier, regression_target, last="M", ensemble=ensemble)
        pairs = pairs_of(self._identifier, ensemble.shape[-1], self.estimator)
        ordered = ensemble.detach().sort(dim=-1).values.contiguous()
        own = ensemble.detach().contiguous()
        # How many members lie below each one, less those above it: what its own place adds to the sum of distances.
        surplus = torch.searchsorted(ordered, own) + torch.searchsorted(ordered, own, right=True) - own.shape[-1]
        # The surpluses add up to 0; around a member, numbers far from 0 keep their digits.
        centred = ensemble - ordered[..., own.shape[-1] // 2].unsqueeze(-1)
        spread = (surplus.to(ensemble.dtype) * centred).sum(dim=-1) / pairs
        return reduce((ensemble - target.unsqueeze(-1)).abs().mean(dim=-1) - spread, self.reduction)


def pairs_of(loss: str, members: int, estimator: Estimator) -> int:
    """What the distances of all ordered pairs of members are divided by; raises ``ValueError`` for a fair form of one.

    Example:
        >>> pairs_of("demo", 4, "fair"), pairs_of("demo", 4, "standard")
        (12, 16)
    """
    if estimator == "fair" and members < 2:
        raise ValueError(
            f"{loss}: an ensemble of {members} member came, of which there is no fair estimate; give at least 2, or "
            "estimator='standard'."
        )
    return members * (members - 1) if estimator == "fair" else members**2
