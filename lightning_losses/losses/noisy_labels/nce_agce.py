"""NCE + AGCE: normalised cross-entropy beside an asymmetric loss."""

from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import ClassificationLoss, ClassificationRows
from lightning_losses.losses.noisy_labels.agce import Exponent, Offset, asymmetric_generalized_cross_entropy
from lightning_losses.losses.noisy_labels.nce import normalized_cross_entropy
from lightning_losses.numerics.probabilities import log_probabilities
from lightning_losses.numerics.rows import pick
from lightning_losses.numerics.settings import Weight


class NCEAndAGCE(ClassificationLoss):
    """NCE + AGCE: normalised cross-entropy beside an asymmetric loss.

    ``α log p_y / sum_k log p_k + β ((a + 1)^q - (a + p_y)^q) / q``: `NCE` and `AGCE`, weighted.

    Args:
        alpha: α, weight of `NCE`, at least 0.
        beta: β, weight of `AGCE`, at least 0.
        a: the offset of `AGCE`, above 0 and at most 100.
        q: the exponent of `AGCE`, above 0 and at most 10.

    Shapes:
        logits: [..., C]; target: [...] class indices.

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; a target of probabilities; a setting outside of its range.

    Source:
        Zhou, Liu, Jiang, Gao, Ji, 2021, "Asymmetric Loss Functions for Learning with Noisy Labels", arXiv:2106.03110,
        whose code begins with α = β = 1, a = 3, q = 1.5.

    Example:
        >>> import torch
        >>> NCEAndAGCE(a=1.0, q=2.0)(torch.zeros(1, 4), torch.tensor([0])).item()
        1.46875
    """

    status = "confirmed"
    evidence = "hitcszx/ALFs; also Optimization-AI/ICML2023_LDR, not the authors' code"
    soft_targets = False

    alpha: Weight = 1.0
    beta: Weight = 1.0
    a: Offset = 3.0
    q: Exponent = 1.5

    def rows(self, given: ClassificationRows) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        log_p = log_probabilities(given.logits)
        passive = asymmetric_generalized_cross_entropy(-pick(log_p, given.target), self.a, self.q)
        return self.alpha * normalized_cross_entropy(log_p, given.target) + self.beta * passive
