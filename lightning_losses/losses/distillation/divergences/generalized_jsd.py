"""Generalised Jensen-Shannon divergence: both networks are compared with their mixture."""

from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import DistillationLoss, DistillationRows
from lightning_losses.numerics.divergences import kl_divergence, weighted_log_ratio
from lightning_losses.numerics.probabilities import log_mean, log_probabilities
from lightning_losses.numerics.settings import Share, Temperature


class GeneralizedJSD(DistillationLoss):
    """Generalised Jensen-Shannon divergence: both networks are compared with their mixture.

    ``β KL(t || m) + (1 - β) KL(s || m)`` with ``m = β t + (1 - β) s``, ``s = softmax(logits / τ)`` and ``t =
    softmax(teacher_logits / τ)``. Bounded; symmetric at β = 1/2. At β = 0 it is defined as KL(t || s), at β = 1 as KL(s
    || t). These are limits of the divergence divided by β and by 1 - β; the formula itself tends to 0 there.

    Args:
        beta: β, the weight of the teacher in the mixture, in [0, 1].
        temperature: τ, above 0.
        tau_squared: multiply by τ², which keeps the gradient's size independent of the temperature.

    Shapes:
        logits, teacher_logits: [..., C]; target (optional, only marks ignored samples): [...] or [..., C].

    Returns:
        A scalar, or [...] without reduction. Finite for any masked classes; masked classes count as in `ForwardKL` at β
        = 0 and as in `ReverseKL` at β = 1.

    Raises:
        ValueError: shapes or dtypes that do not fit; a beta outside [0, 1]; a temperature of 0 or less.

    Source:
        Agarwal, Vieillard, Zhou, Stanczyk, Ramos, Geist, Bachem, 2024, "On-Policy Distillation of Language Models:
        Learning from Self-Generated Mistakes", arXiv:2306.13649, and huggingface/trl's `generalized_jsd_loss`, which
        divides by the number of sequences if there are no labels; this always divides by the number of kept tokens. The
        `js_distance` of jongwooko/distillm with `lam` is this with β = 1 - lam.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[2.0, 0.0]])
        >>> round(GeneralizedJSD()(logits, -logits).item(), 4)
        0.3278
    """

    status = "paper"
    evidence = "huggingface/trl and jongwooko/distillm, not the authors' code"

    beta: Share = 0.5
    temperature: Temperature = 1.0
    tau_squared: bool = False

    def rows(self, given: DistillationRows) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        log_s = log_probabilities(given.logits, self.temperature)
        log_t = log_probabilities(given.teacher_logits, self.temperature)
        if self.beta in (0, 1):
            value = kl_divergence(log_t, log_s) if self.beta == 0 else kl_divergence(log_s, log_t)
        else:
            s, t = log_s.exp(), log_t.exp()
            log_m = log_mean(t, s, self.beta)
            of_teacher, of_student = weighted_log_ratio(t, log_t, log_m), weighted_log_ratio(s, log_s, log_m)
            value = self.beta * of_teacher + (1 - self.beta) * of_student
        return self.temperature**2 * value if self.tau_squared else value
