"""Threshold-consistent margin: like pairs above one cosine, unlike ones below another, the same for all classes."""

from typing import Annotated

from jaxtyping import Bool, Float
from torch import Tensor

from lightning_losses.losses.kinds import ClassedEmbeddings, EmbeddingLoss
from lightning_losses.numerics.distances import unit_rows
from lightning_losses.numerics.settings import Bound, Weight

Cosine = Annotated[float, Bound(least=-1, most=1)]


class TCM(EmbeddingLoss):
    """Threshold-consistent margin: like pairs above one cosine, unlike ones below another, the same for all classes.

    ``λ₊ mean(m₊ - s_ij) over like pairs with s_ij ≤ m₊, plus λ₋ mean(s_ij - m₋) over unlike pairs with s_ij ≥ m₋``, s
    being cosines. It stands beside a loss of metric learning, and has one threshold fit all classes; `opis` measures
    how far one does not.

    Args:
        margin_plus: m₊, from -1 to 1.
        margin_minus: m₋, from -1 to 1.
        lambda_plus: λ₊, at least 0.
        lambda_minus: λ₋, at least 0.

    Shapes:
        embeddings: [B, D], not normalised; target: [B] classes of any numbers.

    Returns:
        A scalar; 0 where no pair is on the wrong side.

    Raises:
        ValueError: shapes or dtypes that do not fit; a target of probabilities; options out of range.

    Source:
        Zhang, Xu, Tang, Fang, Wu, Tighe, Xing, 2023, "Threshold-Consistent Margin Loss for Open-World Deep Metric
        Learning", arXiv:2307.04047; numbers are compared with pytorch-metric-learning.

    Example:
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
        >>> round(TCM()(embeddings, torch.tensor([0, 0, 1])).item(), 4)
        1.4
    """

    status = "paper"
    evidence = "values and gradients of pytorch-metric-learning 2.9, not the authors' code"

    margin_plus: Cosine = 0.9
    margin_minus: Cosine = 0.5
    lambda_plus: Weight = 1.0
    lambda_minus: Weight = 1.0

    def measure(self, given: ClassedEmbeddings) -> Float[Tensor, ""]:
        """The two means."""
        unit = unit_rows(given.embeddings)
        cosines, pairs, alike = unit @ unit.mT, given.pairs, given.alike
        low = pairs & alike & (cosines.detach() <= self.margin_plus)
        high = pairs & ~alike & (cosines.detach() >= self.margin_minus)
        value = self.lambda_plus * _mean(self.margin_plus - cosines, low)
        return value + self.lambda_minus * _mean(cosines - self.margin_minus, high)


def _mean(values: Float[Tensor, "batch batch"], chosen: Bool[Tensor, "batch batch"]) -> Float[Tensor, ""]:
    return (values * chosen).sum() / chosen.sum().clamp(min=1)
