"""Reverse divergence: the student keeps to the classes that the teacher finds likely."""

from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import DistillationLoss, DistillationRows
from lightning_losses.numerics.divergences import kl_divergence
from lightning_losses.numerics.probabilities import log_probabilities
from lightning_losses.numerics.settings import Temperature


class ReverseKL(DistillationLoss):
    """Reverse divergence: the student keeps to the classes that the teacher finds likely.

    ``KL(s || t) = sum_k s_k (log s_k - log t_k)`` with ``s = softmax(logits / τ)`` and ``t = softmax(teacher_logits /
    τ)``. A student too small to match the whole teacher then picks some of its modes; the forward divergence would
    spread over all.

    Args:
        temperature: τ, above 0.
        tau_squared: multiply by τ², which keeps the gradient's size independent of the temperature.

    Shapes:
        logits, teacher_logits: [..., C]; target (optional, only marks ignored samples): [...] or [..., C].

    Returns:
        A scalar, or [...] without reduction. A class that the teacher alone masks has probability e^-100 instead of 0.

    Raises:
        ValueError: shapes or dtypes that do not fit; a temperature of 0 or less.

    Source:
        Gu, Dong, Wei, Huang, 2024, "MiniLLM: Knowledge Distillation of Large Language Models", arXiv:2306.08543; per
        token as in jongwooko/distillm.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[2.0, 0.0]])
        >>> round(ReverseKL()(logits, -logits).item(), 4)
        1.5232
    """

    status = "paper"
    evidence = "jongwooko/distillm, not the authors' code"

    needs_tail = True

    temperature: Temperature = 1.0
    tau_squared: bool = False

    def rows(self, given: DistillationRows) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        log_s = log_probabilities(given.logits, self.temperature)
        log_t = log_probabilities(given.teacher_logits, self.temperature)
        value = kl_divergence(log_s, log_t)
        return self.temperature**2 * value if self.tau_squared else value
