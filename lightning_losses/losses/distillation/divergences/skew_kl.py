"""Skewed forward divergence: the teacher against a mixture of itself and the student."""

from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import DistillationLoss, DistillationRows
from lightning_losses.numerics.divergences import kl_divergence, weighted_log_ratio
from lightning_losses.numerics.probabilities import log_mean, log_probabilities
from lightning_losses.numerics.settings import Share, Temperature


class SkewKL(DistillationLoss):
    """Skewed forward divergence: the teacher against a mixture of itself and the student.

    ``KL(t || λ t + (1 - λ) s)`` with ``s = softmax(logits / τ)`` and ``t = softmax(teacher_logits / τ)``. At most -log
    λ, while the forward divergence has no bound; at λ = 0 it equals the forward divergence. The gradient goes through
    the student inside the mixture.

    Args:
        skew: λ, the share of the teacher in the mixture, in [0, 1].
        temperature: τ, above 0.
        tau_squared: multiply by τ², which keeps the gradient's size independent of the temperature.

    Shapes:
        logits, teacher_logits: [..., C]; target (optional, only marks ignored samples): [...] or [..., C].

    Returns:
        A scalar, or [...] without reduction. Finite for any masked classes; at λ = 0 they count as in `ForwardKL`.

    Raises:
        ValueError: shapes or dtypes that do not fit; a skew outside [0, 1]; a temperature of 0 or less.

    Source:
        Ko, Kim, Chen, Yun, 2024, "DistiLLM: Towards Streamlined Distillation for Large Language Models",
        arXiv:2402.03898, and its code jongwooko/distillm, which leaves out the teacher's constant entropy; this is the
        divergence itself.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[2.0, 0.0]])
        >>> round(SkewKL()(logits, -logits).item(), 4)
        1.0988
    """

    status = "confirmed"
    evidence = "jongwooko/distillm"

    skew: Share = 0.1
    temperature: Temperature = 1.0
    tau_squared: bool = False

    def rows(self, given: DistillationRows) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        log_s = log_probabilities(given.logits, self.temperature)
        log_t = log_probabilities(given.teacher_logits, self.temperature)
        if self.skew in (0, 1):
            value = kl_divergence(log_t, log_t if self.skew == 1 else log_s)
        else:
            t = log_t.exp()
            value = weighted_log_ratio(t, log_t, log_mean(t, log_s.exp(), self.skew))
        return self.temperature**2 * value if self.tau_squared else value
