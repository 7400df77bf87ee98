"""Skewed reverse divergence: the student against a mixture of the teacher and itself."""

from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import DistillationLoss, DistillationRows
from lightning_losses.numerics.divergences import kl_divergence, weighted_log_ratio
from lightning_losses.numerics.probabilities import log_mean, log_probabilities
from lightning_losses.numerics.settings import Share, Temperature


class SkewRKL(DistillationLoss):
    """Skewed reverse divergence: the student against a mixture of the teacher and itself.

    ``KL(s || (1 - λ) t + λ s)`` with ``s = softmax(logits / τ)`` and ``t = softmax(teacher_logits / τ)``. At most -log
    λ, while the reverse divergence has no bound; at λ = 0 it equals the reverse divergence. The gradient also goes
    through the student inside the mixture.

    Args:
        skew: λ, the share of the student in the mixture, in [0, 1].
        temperature: τ, above 0.
        tau_squared: multiply by τ², which keeps the gradient's size independent of the temperature.

    Shapes:
        logits, teacher_logits: [..., C]; target (optional, only marks ignored samples): [...] or [..., C].

    Returns:
        A scalar, or [...] without reduction. Finite for any masked classes; at λ = 0 they count as in `ReverseKL`.

    Raises:
        ValueError: shapes or dtypes that do not fit; a skew outside [0, 1]; a temperature of 0 or less.

    Source:
        Ko, Kim, Chen, Yun, 2024, "DistiLLM: Towards Streamlined Distillation for Large Language Models",
        arXiv:2402.03898, and its code jongwooko/distillm.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[2.0, 0.0]])
        >>> round(SkewRKL()(logits, -logits).item(), 4)
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
            value = kl_divergence(log_s, log_s if self.skew == 1 else log_t)
        else:
            s = log_s.exp()
            value = weighted_log_ratio(s, log_s, log_mean(s, log_t.exp(), self.skew))
        return self.temperature**2 * value if self.tau_squared else value
