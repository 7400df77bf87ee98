"""Distributionally robust reweighting: the harder a sample is, the more it weighs."""

import copy
from dataclasses import field

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.losses.classification.cross_entropy import CrossEntropy
from lightning_losses.losses.kinds import ClassificationLoss, ClassificationRows, index_rows
from lightning_losses.numerics.rows import classification_rows, required_target
from lightning_losses.numerics.settings import Positive


class DROInstanceReweighting(Loss):
    """Distributionally robust reweighting: the harder a sample is, the more it weighs.

    ``r log mean_i exp(ℓ_i / r)``, the largest value of ``sum_i w_i ℓ_i - r KL(w || uniform)`` over all weights of the
    batch's samples; the best weights are ``w = softmax(ℓ / r)``. r → ∞ is the mean, r → 0 the largest loss. ℓ is
    cross-entropy, or another loss of logits and target. The mean is over the batch; its logarithm is, on average, below
    that of the mean over the data set.

    Args:
        r: how much unequal weights cost, above 0.
        loss: ℓ; cross-entropy for None. Its own reduction and `ignore_index` are not used.
        ignore_index: rows with this target, or with probabilities that are all 0, are ignored.

    Shapes:
        logits: [..., C]; target: [...] class indices, or [..., C] probabilities where ℓ takes them.

    Returns:
        A scalar; 0 with every sample ignored.

    Raises:
        ValueError: shapes or dtypes that do not fit; a loss of other tensors; options out of range.

    Source:
        The outer part of Sow, Lin, Wang, Liang, 2023, "Doubly Robust Instance-Reweighted Adversarial Training",
        arXiv:2308.00311, whose inner part is an attack on the inputs and which corrects the batch's logarithm by a
        moving average; not here.

    Example:
        >>> loss = DROInstanceReweighting(r=1.0)
        >>> round(loss(torch.tensor([[0.0, 0.0], [9.0, 0.0]]), torch.tensor([0, 1])).item(), 4)
        8.3072
    """

    batch_coupled = True
    status = "experimental"
    evidence = "an evaluation of the formula in numpy"

    r: Positive = 1.0
    loss: ClassificationLoss | None = None
    ignore_index: int = field(default=-100, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        given = CrossEntropy() if self.loss is None else copy.copy(self.loss)
        if not isinstance(given, ClassificationLoss) or given.batch_coupled:
            raise ValueError(
                f"{self._identifier}: loss={type(given).__name__} came; give one that has a value for each row of "
                "logits and target, such as CrossEntropy or Focal."
            )
        given.ignore_index = self.ignore_index
        self.loss = given

    def forward(self, logits: Float[Tensor, "*rows classes"], target: Shaped[Tensor, "..."]) -> Float[Tensor, ""]:
        """Check and evaluate; the class documents what."""
        assert isinstance(self.loss, ClassificationLoss)
        if self.loss.soft_targets:
            checked = classification_rows(self._identifier, logits, target, self.ignore_index)
            given = ClassificationRows(checked.logits, required_target(self._identifier, checked.target), checked.kept)
        else:
            given = index_rows(self._identifier, logits, target, self.ignore_index)
        values = self.loss.rows(given).flatten()
        kept = torch.ones_like(values, dtype=torch.bool) if given.kept is None else given.kept.flatten()
        return soft_maximum(values, kept, self.r)


def soft_maximum(values: Float[Tensor, " rows"], kept: Bool[Tensor, " rows"], r: float) -> Float[Tensor, ""]:
    """``r log mean exp(v / r)`` of the kept values; 0, with zero gradients, without any.

    Example:
        >>> values, kept = torch.tensor([0.0, 1000.0, 5.0]), torch.tensor([True, True, False])
        >>> [round(soft_maximum(values, kept, r).item(), 2) for r in (1.0, 1e9)]
        [999.31, 500.0]
    """
    if len(values) == 0:
        return values.sum()
    number = kept.sum()
    # Without a kept value all count, of what is then multiplied by 0.
    counted = values.masked_fill(~kept & (number > 0), -torch.inf)
    largest = counted.detach().amax()
    largest = torch.where(largest.isfinite(), largest, 0.0)
    below = (counted - largest) / r
    missing = torch.where(kept, torch.expm1(below), 0.0).sum() / number.clamp(min=1)
    # Where r is large the logarithm is of a number near 1, whose distance from it r multiplies.
    near = torch.log1p(missing.clamp(min=-0.5))
    total = torch.where(missing > -0.5, near, torch.logsumexp(below, dim=0) - number.clamp(min=1).to(values).log())
    return torch.where(number > 0, largest + r * total, 0.0)
