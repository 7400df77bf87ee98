"""Knowledge distillation: the student matches the teacher's softened probabilities."""

from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import DistillationLoss, DistillationRows
from lightning_losses.numerics.divergences import kl_divergence
from lightning_losses.numerics.probabilities import log_probabilities
from lightning_losses.numerics.settings import Temperature


class KD(DistillationLoss):
    """Knowledge distillation: the student matches the teacher's softened probabilities.

    ``τ² KL(t || s)`` with ``s = softmax(logits / τ)`` and ``t = softmax(teacher_logits / τ)``. The factor τ² keeps
    the gradient's size independent of the temperature.

    Args:
        temperature: τ, above 0. At τ = 1 with a one-hot teacher this is cross-entropy.

    Shapes:
        logits, teacher_logits: [..., C]; target (optional, only marks ignored samples): [...] or [..., C].

    Returns:
        A scalar, or [...] without reduction. A class that the student alone masks has probability e^-100 instead of 0.

    Raises:
        ValueError: shapes or dtypes that do not fit; a temperature of 0 or less.

    Source:
        Hinton, Vinyals, Dean, 2015, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531. Much code also
        averages over classes (``kl_div(reduction="mean")``), which makes the loss C times smaller; this averages over
        samples.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[2.0, 0.0]])
        >>> round(KD(temperature=1.0)(logits, -logits).item(), 4)
        1.5232
    """

    status = "paper"
    evidence = "megvii-research/mdistiller and yoshitomo-matsubara/torchdistill, not the authors' code"

    temperature: Temperature = 4.0

    def rows(self, given: DistillationRows) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        log_s = log_probabilities(given.logits, self.temperature)
        log_t = log_probabilities(given.teacher_logits, self.temperature)
        return self.temperature**2 * kl_divergence(log_t, log_s)
