"""Logit adjustment: cross-entropy that adds the logarithm of the classes' shares to the logits."""

from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.class_prior import ClassCounts, ClassPrior, Smoothing
from lightning_losses.losses.kinds import OffsetCrossEntropy
from lightning_losses.numerics.settings import NonNegative


class LogitAdjustment(OffsetCrossEntropy):
    """Logit adjustment: cross-entropy that adds the logarithm of the classes' shares to the logits.

    ``-log softmax(z + τ log π)_y`` with π the classes' shares of the training set. With τ = 1 the largest logit is, at
    the optimum, that of the class with the largest ``p(x | y)``: the prediction of the best balanced accuracy, where
    cross-entropy's is that of the best accuracy. A fused head takes it as a bias, at the cost of cross-entropy. After a
    training by cross-entropy, `LogitAdjuster` does the same to its logits.

    Args:
        class_counts: a number of training samples for each class; None where `ClassCounts` counts them.
        tau: τ, at least 0; 0 is cross-entropy.
        smoothing: "clamp" counts a class without samples as 1, "add_one" adds 1 to every count; with a count of 0 a
            class could never be learned.

    Shapes:
        logits: [..., C]; target: [...] class indices or [..., C] probabilities.

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; no class counts, or those of another number of classes; τ below 0.

    Source:
        Menon, Jayasumana, Rawat, Jain, Veit, Kumar, 2020, "Long-tail learning via logit adjustment", arXiv:2007.07314.

    Example:
        >>> import torch
        >>> loss = LogitAdjustment(class_counts=[3, 1])
        >>> round(loss(torch.zeros(1, 2), torch.tensor([1])).item(), 4)
        1.3863
    """

    status = "paper"
    evidence = "an evaluation of the paper's formula in numpy"

    class_counts: ClassCounts | None = None
    tau: NonNegative = 1.0
    smoothing: Smoothing = "clamp"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.prior = ClassPrior(self._identifier, self.class_counts, self.smoothing)

    def offset(self, classes: int) -> Float[Tensor, " classes"]:
        """What is added to the logits of each row."""
        return self.tau * self.prior.log_prior(classes)
