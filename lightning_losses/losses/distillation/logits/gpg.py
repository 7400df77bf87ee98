"""Group progressive guidance: each sub-network learns from the next larger one and from the label."""

from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import LabelledDistillationLoss, LabelledRows
from lightning_losses.numerics.divergences import cross_entropy, kl_divergence
from lightning_losses.numerics.probabilities import log_probabilities
from lightning_losses.numerics.settings import Share


class GPG(LabelledDistillationLoss):
    """Group progressive guidance: each sub-network learns from the next larger one and from the label.

    ``α KL(t || s) + (1 - α) CE(logits, y)`` at temperature 1: one link of a chain of sub-networks that share weights.
    The largest learns from the label alone, each smaller one from the one before it, and the gradients of all links add
    up to one step.

    Args:
        alpha: α, in [0, 1].

    Shapes:
        logits, teacher_logits: [..., C], the teacher being the next larger sub-network; target: [...] class indices or
        [..., C] probabilities.

    Returns:
        A scalar, or [...] without reduction. Infinite where the target's class is masked in the student. Any other
        class that the student alone masks has probability e^-100 instead of 0.

    Raises:
        ValueError: shapes or dtypes that do not fit; an alpha outside [0, 1].

    Source:
        Xu, Han, Tian, Yang, Zhang, 2023, "EQ-Net: Elastic Quantization Neural Networks", arXiv:2308.07650, and its code
        xuke225/EQ-Net.

    Example:
        >>> import torch
        >>> logits, target = torch.tensor([[2.0, 0.0]]), torch.tensor([0])
        >>> round(GPG()(logits, -logits, target).item(), 4)  # (1.5232 + 0.1269) / 2
        0.8251
    """

    status = "confirmed"
    evidence = "xuke225/EQ-Net"

    alpha: Share = 0.5

    def rows(self, given: LabelledRows) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        taught = kl_divergence(log_probabilities(given.teacher_logits), log_probabilities(given.logits))
        label = cross_entropy(log_probabilities(given.logits), given.target)
        return self.alpha * taught + (1 - self.alpha) * label
