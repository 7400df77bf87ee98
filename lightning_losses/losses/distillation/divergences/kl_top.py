"""Top-k divergence: student and teacher are compared on the classes that the teacher likes best."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.losses.kinds import DistillationLoss, DistillationRows
from lightning_losses.numerics.divergences import kl_divergence
from lightning_losses.numerics.probabilities import log_probabilities_within, log_total
from lightning_losses.numerics.settings import Count, Temperature


class KLTop(DistillationLoss):
    """Top-k divergence: student and teacher are compared on the classes that the teacher likes best.

    ``KL(t || s)`` with t and s the softmax, at temperature τ, over only the k classes with the largest teacher logits.
    With `tail_bucket` the other classes count as one more class, which makes it a lower bound of the whole divergence.

    Args:
        k: number of classes, at least 1; with k ≥ C it is the whole divergence. k = 1 needs `tail_bucket`, because
            softmax over one class is constant.
        tail_bucket: count all other classes together as one more class.
        temperature: τ, above 0.
        tau_squared: multiply by τ², which keeps the gradient's size independent of the temperature.

    Shapes:
        logits, teacher_logits: [..., C]; target (optional, only marks ignored samples): [...] or [..., C].

    Returns:
        A scalar, or [...] without reduction. If the student alone masks one of the k classes, its probability is e^-100
        instead of 0.

    Raises:
        ValueError: shapes or dtypes that do not fit; a k that is no whole number of at least 1; a temperature of 0 or
            less.

    Source:
        The KL-Top loss of Hu, Cheng, Yang et al., 2025, "OstQuant: Refining Large Language Model Quantization with
        Orthogonal and Scaling Transformations for Better Distribution Fitting", arXiv:2501.13987, implemented from
        descriptions and not compared with its code BrotherHappy/OSTQuant. For vocabularies k = 1000 is reported. The
        tail bucket is this library's.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0, -1.0]])
        >>> round(KLTop(k=2)(logits, torch.tensor([[0.0, 1.0, -9.0]])).item(), 4)
        1.0068
    """

    status = "paper"
    evidence = "an independent evaluation of the formula"

    k: Count = 10
    tail_bucket: bool = False
    temperature: Temperature = 1.0
    tau_squared: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.k == 1 and not self.tail_bucket:
            raise ValueError(
                f"{self._identifier}: k=1 came, and softmax over one class is 1 whatever the logit; give at least 2, "
                "or tail_bucket=True."
            )

    def rows(self, given: DistillationRows) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        top = given.teacher_logits.topk(min(self.k, given.logits.shape[-1]), dim=-1).indices
        student, teacher = self._selected(given.logits, top), self._selected(given.teacher_logits, top)
        value = kl_divergence(log_probabilities_within(teacher), log_probabilities_within(student))
        # NaN in the classes that are left out must still give NaN.
        value = value + 0.0 * given.logits.detach().amax(dim=-1)
        return self.temperature**2 * value if self.tau_squared else value

    def _selected(
        self, logits: Float[Tensor, "*rows classes"], top: Int[Tensor, "*rows k"]
    ) -> Float[Tensor, "*rows chosen"]:
        logits = logits / self.temperature
        chosen = logits.gather(-1, top)
        if not self.tail_bucket or top.shape[-1] == logits.shape[-1]:
            return chosen
        return torch.cat([chosen, log_total(logits.scatter(-1, top, -torch.inf))], dim=-1)
