"""Regularised adaptive prediction sets: adaptive sets without the long tail of unlikely classes."""

from jaxtyping import Float
from torch import Tensor

from lightning_losses.calibrators.aps import APS
from lightning_losses.numerics.checks import check_count, check_number


class RAPS(APS):
    """Regularised adaptive prediction sets: adaptive sets without the long tail of unlikely classes.

    The score of `APS` and ``penalty · max(0, rank - k_reg)``, the likeliest class having rank 1. With penalty 0 it is
    `APS`; with a large one, few sets are larger than `k_reg`.

    Args:
        penalty: λ, at least 0.
        k_reg: the ranks without penalty, at least 0.
        randomised, seed, alpha, classwise, ignore_index: as `APS` takes them.

    Attributes:
        calibration: the scores of the fit; empty before it.

    Shapes:
        logits: [..., C]; target: [...] class indices; the sets: [..., C] bool.

    Source:
        Angelopoulos, Bates, Malik, Jordan, 2021, "Uncertainty Sets for Image Classifiers using Conformal Prediction",
        arXiv:2009.14193. Its authors choose λ and k_reg on a part of the data that the fit then must not see. Equal to
        ml-stat-Sustech/TorchCP, whose defaults of 0 are those of `APS`.

    Example:
        >>> RAPS(penalty=0.1, k_reg=1).scores(torch.tensor([[0.6, 0.3, 0.1]]))
        tensor([[0.6000, 1.0000, 1.2000]])
    """

    def __init__(
        self,
        alpha: float = 0.1,
        penalty: float = 0.1,
        k_reg: int = 1,
        randomised: bool = False,
        classwise: bool = False,
        seed: int = 0,
        ignore_index: int = -100,
    ) -> None:
        super().__init__(alpha, randomised, classwise, seed, ignore_index)
        check_number("RAPS", "penalty", penalty, least=0)
        check_count("RAPS", "k_reg", k_reg, zero="for a penalty on the first too")
        self.penalty = penalty
        self.k_reg = k_reg

    def scores(
        self, probabilities: Float[Tensor, "*rows classes"], uniforms: Float[Tensor, "*rows draws"] | None = None
    ) -> Float[Tensor, "*rows classes"]:
        """The adaptive score and the penalty of each label's rank."""
        order = probabilities.argsort(dim=-1, descending=True, stable=True)
        rank = (order.argsort(dim=-1) + 1).to(probabilities.dtype)
        return super().scores(probabilities, uniforms) + self.penalty * (rank - self.k_reg).clamp(min=0)
