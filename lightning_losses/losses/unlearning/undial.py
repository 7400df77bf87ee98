"""UNDIAL: distillation from the model itself, with the logit of each token to forget lowered."""

from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import LabelledDistillationLoss, LabelledRows
from lightning_losses.numerics.divergences import expectation
from lightning_losses.numerics.probabilities import log_probabilities
from lightning_losses.numerics.settings import NonNegative


class UnDIAL(LabelledDistillationLoss):
    """UNDIAL: distillation from the model as it was, with the logit of each token to forget lowered.

    ``-sum_k q_k log s_k`` with ``q = softmax(z_ref - a e_y)``: the student learns what the reference would say if it
    did not know the token y. The target is a distribution, so training converges, unlike `gradient_ascent`. It is a
    cross-entropy, whose least value is the entropy of q.

    Args:
        strength: a, by how much the token's logit is lowered, at least 0; at 0 it is distillation.

    Shapes:
        logits, teacher_logits: [..., C], C of at least 2; target: [...], or [..., C] probabilities, whose largest class
        is the token.

    Returns:
        A scalar, or [...] without reduction; at least 0. A class that the student alone masks has probability e^-100
        instead of 0.

    Raises:
        ValueError: shapes or dtypes that do not fit; a strength below 0.

    Source:
        Dong, Lin, Belkin, Huerta, Vulić, 2024, "UNDIAL: Self-Distillation with Adjusted Logits for Robust Unlearning in
        Large Language Models", arXiv:2402.10052. locuslab/open-unlearning averages over ignored positions too; this
        leaves them out.

    Example:
        >>> import torch
        >>> even = torch.zeros(1, 3)
        >>> round(UnDIAL(strength=100.0)(even, even, torch.tensor([0])).item(), 4)  # log 3
        1.0986
    """

    status = "paper"
    evidence = "locuslab/open-unlearning, not the authors' code"

    strength: NonNegative = 10.0

    def rows(self, given: LabelledRows) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        own = given.label.unsqueeze(-1)
        lowered = given.teacher_logits.scatter(-1, own, given.teacher_logits.gather(-1, own) - self.strength)
        return -expectation(log_probabilities(lowered), log_probabilities(given.logits))
