"""Equiangular basis vectors: cross-entropy of the cosines with fixed vectors, as far apart as they can be."""

from dataclasses import field

from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.classification.cross_entropy import CrossEntropy
from lightning_losses.losses.cosines import warn_of_no_cosines
from lightning_losses.losses.kinds import ClassificationLoss, ClassificationRows
from lightning_losses.numerics.settings import Share, Temperature


class EBV(ClassificationLoss):
    """Equiangular basis vectors: cross-entropy of the cosines with fixed vectors, as far apart as they can be.

    ``-sum_k q_k log softmax(z / τ)_k`` with q the target, smoothed as in `CrossEntropy`. The logits z are to be cosines
    with an `equiangular_basis`, as ``MarginHead(..., fixed=True)`` gives them: nothing of the size of the number of
    classes is trained. Other logits than cosines are warned of once, on a CPU.

    Args:
        temperature: τ, above 0.
        label_smoothing: ε, in [0, 1].

    Shapes:
        logits: [..., C] cosines; target: [...] class indices, or [..., C] probabilities.

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; options out of range.

    Warns:
        UserWarning: logits that are no cosines.

    Source:
        Shen, Sun, Wei, 2023, "Equiangular Basis Vectors", arXiv:2303.11637, and its code,
        aassxun/Equiangular-Basis-Vectors, whose τ and ε these are.

    Example:
        >>> loss = EBV(temperature=0.5, label_smoothing=0.0)
        >>> round(loss(torch.tensor([[0.5, -0.5]]), torch.tensor([0])).item(), 4)
        0.1269
    """

    status = "paper"
    evidence = "torch's functions as in the script of aassxun/Equiangular-Basis-Vectors, not the authors' code itself"
    takes_cosines = True

    temperature: Temperature = 0.07
    label_smoothing: Share = 0.1
    cross_entropy: CrossEntropy = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.cross_entropy = CrossEntropy(label_smoothing=self.label_smoothing)

    def rows(self, given: ClassificationRows) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        warn_of_no_cosines(self, given.logits)
        return self.cross_entropy.rows(given._replace(logits=given.logits / self.temperature))
