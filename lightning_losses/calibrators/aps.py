"""Adaptive prediction sets: the likeliest classes, until enough probability is gathered."""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.calibrators.conformal_sets import ConformalSets


class APS(ConformalSets):
    """Adaptive prediction sets: the likeliest classes, until enough probability is gathered.

    The score of a label is the sum of the probabilities from the largest down to its own, less u times its own. Sets
    grow on rows that are hard, so that coverage is more even over them than that of `LAC`, at the price of larger sets.
    With u = 0 a set always holds the likeliest classes. With `randomised`, u is drawn from [0, 1) for each row, which
    makes sets a little smaller; a set may then be empty. Of equal probabilities the lower class comes first.

    Args:
        randomised: whether u is drawn.
        seed: of the draws of the fit.
        alpha, classwise, ignore_index: as `ConformalSets` takes them.

    Attributes:
        calibration: the scores of the fit; empty before it.

    Shapes:
        logits: [..., C]; target: [...] class indices; the sets: [..., C] bool.

    Source:
        Romano, Sesia, Candès, 2020, "Classification with Valid and Adaptive Coverage", arXiv:2006.02544. As there,
        a row has one u; ml-stat-Sustech/TorchCP draws one for each label, as `uniforms` of [..., C] does here.

    Example:
        >>> logits = torch.log(torch.tensor([[0.6, 0.3, 0.1]]))
        >>> APS().scores(logits.softmax(dim=-1))
        tensor([[0.6000, 0.9000, 1.0000]])
    """

    def __init__(
        self,
        alpha: float = 0.1,
        randomised: bool = False,
        classwise: bool = False,
        seed: int = 0,
        ignore_index: int = -100,
    ) -> None:
        super().__init__(alpha, classwise, ignore_index)
        self.randomised = randomised
        self.seed = seed

    def scores(
        self, probabilities: Float[Tensor, "*rows classes"], uniforms: Float[Tensor, "*rows draws"] | None = None
    ) -> Float[Tensor, "*rows classes"]:
        """The probability that is gathered on the way to each label, less the share u of its own.

        Raises:
            ValueError: uniforms of another shape, which would be broadcast.
        """
        if uniforms is not None and uniforms.shape not in ((*probabilities.shape[:-1], 1), probabilities.shape):
            raise ValueError(
                f"{type(self).__name__}: uniforms of shape {list(uniforms.shape)} came with probabilities of shape "
                f"{list(probabilities.shape)}; give one number for each row, [..., 1], or for each label, [..., C]."
            )
        ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
        gathered = ordered.cumsum(dim=-1).clamp(max=1.0)
        # All of it is 1: by rounding, a last label of the fit might lie below one of a test.
        gathered = torch.cat([gathered[..., :-1], torch.ones_like(gathered[..., -1:])], dim=-1)
        gathered = torch.empty_like(gathered).scatter(-1, order, gathered)
        return gathered if uniforms is None else gathered - uniforms.to(probabilities) * probabilities
