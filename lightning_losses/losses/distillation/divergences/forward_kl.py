"""Forward divergence: the student covers whatever the teacher finds likely."""

from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import DistillationLoss, DistillationRows
from lightning_losses.numerics.divergences import kl_divergence
from lightning_losses.numerics.probabilities import log_probabilities
from lightning_losses.numerics.settings import Temperature


class ForwardKL(DistillationLoss):
    """Forward divergence: the student covers whatever the teacher finds likely.

    ``KL(t || s) = sum_k t_k (log t_k - log s_k)`` with ``s = softmax(logits / τ)`` and ``t = softmax(teacher_logits /
    τ)``. `KD` is this times τ².

    Args:
        temperature: τ, above 0.
        tau_squared: multiply by τ², which keeps the gradient's size independent of the temperature.

    Shapes:
        logits, teacher_logits: [..., C]; target (optional, only marks ignored samples): [...] or [..., C].

    Returns:
        A scalar, or [...] without reduction. A class that the student alone masks has probability e^-100 instead of 0.

    Raises:
        ValueError: shapes or dtypes that do not fit; a temperature of 0 or less.

    Source:
        Ko, Kim, Chen, Yun, 2024, "DistiLLM: Towards Streamlined Distillation for Large Language Models",
        arXiv:2402.03898, and its code jongwooko/distillm, which leaves out the teacher's constant entropy; this is the
        divergence itself.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[2.0, 0.0]])
        >>> round(ForwardKL()(logits, -logits).item(), 4)
        1.5232
    """

    status = "confirmed"
    evidence = "jongwooko/distillm"

    temperature: Temperature = 1.0
    tau_squared: bool = False

    def rows(self, given: DistillationRows) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        log_s = log_probabilities(given.logits, self.temperature)
        log_t = log_probabilities(given.teacher_logits, self.temperature)
        value = kl_divergence(log_t, log_s)
        return self.temperature**2 * value if self.tau_squared else value
