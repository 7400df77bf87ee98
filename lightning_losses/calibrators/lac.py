"""Least ambiguous sets: the smallest sets on average that cover."""

from jaxtyping import Float
from torch import Tensor

from lightning_losses.calibrators.conformal_sets import ConformalSets


class LAC(ConformalSets):
    """Least ambiguous sets: every class whose probability is high enough, the smallest sets on average that cover.

    The score of a label is ``1 - p``. Sets of confident wrong predictions may be empty; rows that are hard are covered
    less often than easy ones, which `APS` evens out.

    Args:
        alpha, classwise, ignore_index: as `ConformalSets` takes them.

    Attributes:
        calibration: the scores of the fit; empty before it.

    Shapes:
        logits: [..., C]; target: [...] class indices; the sets: [..., C] bool.

    Source:
        Sadinle, Lei, Wasserman, 2019, "Least Ambiguous Set-Valued Classifiers with Bounded Error Levels",
        arXiv:1609.00451. Equal to ml-stat-Sustech/TorchCP.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[2.0, 0.0, -2.0]]).repeat(20, 1)
        >>> target = torch.tensor([0] * 17 + [1] * 3)
        >>> [LAC(alpha).fit(logits, target)(logits[0]).tolist() for alpha in (0.2, 0.1)]
        [[True, False, False], [True, True, False]]
    """

    def scores(
        self, probabilities: Float[Tensor, "*rows classes"], uniforms: Float[Tensor, "*rows draws"] | None = None
    ) -> Float[Tensor, "*rows classes"]:
        """``1 - p``."""
        return 1 - probabilities
