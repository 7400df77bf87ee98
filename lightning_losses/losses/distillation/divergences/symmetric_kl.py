"""Symmetric divergence: a weighted sum of the forward and the reverse divergence."""

from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import DistillationLoss, DistillationRows
from lightning_losses.numerics.divergences import kl_divergences
from lightning_losses.numerics.probabilities import log_probabilities
from lightning_losses.numerics.settings import Share, Temperature


class SymmetricKL(DistillationLoss):
    """Symmetric divergence: a weighted sum of the forward and the reverse divergence.

    ``(1 - λ) KL(t || s) + λ KL(s || t)`` with ``s = softmax(logits / τ)`` and ``t = softmax(teacher_logits / τ)``. At λ
    = 1/2 it is half of Jeffreys' divergence.

    Args:
        reverse_weight: λ, in [0, 1].
        temperature: τ, above 0.
        tau_squared: multiply by τ², which keeps the gradient's size independent of the temperature.

    Shapes:
        logits, teacher_logits: [..., C]; target (optional, only marks ignored samples): [...] or [..., C].

    Returns:
        A scalar, or [...] without reduction. A class that one network alone masks has probability e^-100 instead of 0.

    Raises:
        ValueError: shapes or dtypes that do not fit; a reverse_weight outside [0, 1]; a temperature of 0 or less.

    Source:
        Ko, Kim, Chen, Yun, 2024, "DistiLLM: Towards Streamlined Distillation for Large Language Models",
        arXiv:2402.03898, and its code jongwooko/distillm, with the same default λ = 0.9. The code leaves out the
        teacher's constant entropy; this is the divergence itself.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[2.0, 0.0]])
        >>> round(SymmetricKL(reverse_weight=0.5)(logits, -logits).item(), 4)
        1.5232
    """

    status = "confirmed"
    evidence = "jongwooko/distillm"

    needs_tail = True

    reverse_weight: Share = 0.9
    temperature: Temperature = 1.0
    tau_squared: bool = False

    def rows(self, given: DistillationRows) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        log_s = log_probabilities(given.logits, self.temperature)
        log_t = log_probabilities(given.teacher_logits, self.temperature)
        forward, reverse = kl_divergences(log_t, log_s)
        value = (1 - self.reverse_weight) * forward + self.reverse_weight * reverse
        return self.temperature**2 * value if self.tau_squared else value
