"""CosFace: the target's cosine must exceed the others by a margin."""

from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import MarginLoss
from lightning_losses.numerics.settings import NonNegative


class CosFace(MarginLoss):
    """CosFace: the target's cosine must exceed the others by a margin.

    ``-log softmax(s (z - m e_y))_y``: the large-margin cosine loss, also known as AM-softmax. The logits z are to be
    cosines, as a `MarginHead` gives them.

    Args:
        margin: m, at least 0; 0 is `NormalizedSoftmax` with a temperature of 1/s.
        scale: s, above 0.

    Shapes:
        logits: [..., C] cosines; target: [...] class indices.

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; a target of probabilities; options out of range.

    Warns:
        UserWarning: logits that are no cosines.

    Source:
        Wang et al., 2018, "CosFace: Large Margin Cosine Loss for Deep Face Recognition", arXiv:1801.09414, whose m and
        s these are; compared with pytorch-metric-learning's.

    Example:
        >>> round(CosFace(margin=0.5, scale=2.0)(torch.tensor([[0.5, 0.0]]), torch.tensor([0])).item(), 4)
        0.6931
    """

    status = "paper"
    evidence = "KevinMusgrave/pytorch-metric-learning, not the authors' code"

    margin: NonNegative = 0.35

    def with_margin(self, cosine: Float[Tensor, "*rows"]) -> Float[Tensor, "*rows"]:
        """What the target's cosine becomes, elementwise."""
        return cosine - self.margin
