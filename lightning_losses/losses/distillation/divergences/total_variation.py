"""Total variation: the probability mass on which student and teacher differ."""

from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import DistillationLoss, DistillationRows
from lightning_losses.numerics.probabilities import probabilities
from lightning_losses.numerics.settings import Temperature


class TotalVariation(DistillationLoss):
    """Total variation: the probability mass on which student and teacher differ.

    ``sum_k |t_k - s_k| / 2`` with ``s = softmax(logits / τ)`` and ``t = softmax(teacher_logits / τ)``, in [0, 1]. Its
    square is at most half of KL(t || s) (Pinsker). It has a kink where probabilities are equal; the subgradient there
    is 0.

    Args:
        temperature: τ, above 0.
        tau_squared: multiply by τ², which keeps the gradient's size independent of the temperature.

    Shapes:
        logits, teacher_logits: [..., C]; target (optional, only marks ignored samples): [...] or [..., C].

    Returns:
        A scalar, or [...] without reduction. Finite for any classes masked by -inf.

    Raises:
        ValueError: shapes or dtypes that do not fit; a temperature of 0 or less.

    Source:
        Wen, Li, Du, Mou, 2023, "f-Divergence Minimization for Sequence-Level Knowledge Distillation", arXiv:2307.15190;
        per token as in jongwooko/distillm.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[2.0, 0.0]])
        >>> round(TotalVariation()(logits, -logits).item(), 4)
        0.7616
    """

    status = "paper"
    evidence = "jongwooko/distillm, not the authors' code"

    temperature: Temperature = 1.0
    tau_squared: bool = False

    def rows(self, given: DistillationRows) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        t = probabilities(given.teacher_logits, self.temperature)
        value = (t - probabilities(given.logits, self.temperature)).abs().sum(dim=-1) / 2
        return self.temperature**2 * value if self.tau_squared else value
