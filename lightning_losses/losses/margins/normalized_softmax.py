"""Normalised softmax: cross-entropy of the cosines with class vectors, over a temperature."""

from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.cosines import warn_of_no_cosines
from lightning_losses.losses.kinds import ClassificationLoss, ClassificationRows
from lightning_losses.numerics.divergences import cross_entropy
from lightning_losses.numerics.probabilities import log_probabilities
from lightning_losses.numerics.settings import Temperature


class NormalizedSoftmax(ClassificationLoss):
    """Normalised softmax: cross-entropy of the cosines with class vectors, over a temperature.

    ``-log softmax(z / τ)_y``. The logits z are to be cosines, as a `MarginHead` gives them; others are warned of once,
    on a CPU. It asks for no margin: `CosFace` and `ArcFace` with a margin of 0 and a scale of 1/τ are the same.

    Args:
        temperature: τ, above 0.

    Shapes:
        logits: [..., C] cosines; target: [...] class indices, or [..., C] probabilities.

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; options out of range.

    Warns:
        UserWarning: logits that are no cosines.

    Source:
        Zhai, Wu, 2019, "Classification is a Strong Baseline for Deep Metric Learning", arXiv:1811.12649, whose τ this
        is; compared with pytorch-metric-learning's.

    Example:
        >>> round(NormalizedSoftmax(temperature=0.5)(torch.tensor([[0.5, -0.5]]), torch.tensor([0])).item(), 4)
        0.1269
    """

    status = "paper"
    evidence = "KevinMusgrave/pytorch-metric-learning, not the authors' code"
    takes_cosines = True

    temperature: Temperature = 0.05

    def rows(self, given: ClassificationRows) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        warn_of_no_cosines(self, given.logits)
        return cross_entropy(log_probabilities(given.logits, self.temperature), given.target)
