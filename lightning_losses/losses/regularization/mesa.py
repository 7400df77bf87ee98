"""Memory-efficient sharpness-aware training: the predictions stay near those of a moving average of the weights."""

from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.losses.kinds import TaughtLoss
from lightning_losses.numerics.divergences import kl_divergence
from lightning_losses.numerics.probabilities import log_probabilities
from lightning_losses.numerics.reduction import reduce
from lightning_losses.numerics.settings import Temperature, Weight, Whole


class MESA(TaughtLoss):
    """Memory-efficient sharpness-aware training: the predictions stay near those of a moving average of the weights.

    ``λ τ² KL(softmax(z_ema / τ) || softmax(z / τ))`` from epoch `start` on and before epoch `end`, else 0: the term of
    `SAF` with the logits of an exponential moving average of the network in the place of kept ones. It needs a forward
    pass of the average and no memory for each sample, and is added to cross-entropy. `EMATeacherMixin` and
    ``experiment=ema_teacher`` make the average; the authors' decay is 0.9998.

    Args:
        coefficient: λ, at least 0.
        temperature: τ, above 0.
        start: the first epoch with the term, counted from 0.
        end: the first one without it again, at least 0.

    Shapes:
        logits, teacher_logits: [..., C]; epoch: a number; target (optional, only tells the ignored samples): [...] or
        [..., C].

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; options out of range.

    Source:
        Du, Zhou, Feng, Tan, Zhou, 2022, "Sharpness-Aware Training for Free", arXiv:2205.14083, and their code,
        AngusDujw/SAF, with its defaults.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[2.0, 0.0]])
        >>> round(MESA()(logits, -logits, epoch=6).item(), 4), MESA()(logits, -logits, epoch=5).item()
        (0.5921, 0.0)
    """

    status = "paper"
    evidence = "no golden values: the term is SAF's, which has them"

    coefficient: Weight = 0.3
    temperature: Temperature = 5.0
    start: Whole = 6
    end: Whole = 360

    def forward(
        self,
        logits: Float[Tensor, "*rows classes"],
        teacher_logits: Float[Tensor, "*rows classes"],
        epoch: float | Float[Tensor, ""],
        target: Shaped[Tensor, "..."] | None = None,
    ) -> Float[Tensor, "..."]:
        """Check, evaluate and reduce; the class documents what."""
        rows = self.pairs(logits, teacher_logits, target)
        log_s, log_t = (
            log_probabilities(self.widened(scores), self.temperature) for scores in (rows.logits, rows.teacher_logits)
        )
        weight = self.coefficient * self.temperature**2 * (self.start <= epoch) * (epoch < self.end)
        return reduce(weight * kl_divergence(log_t, log_s).to(rows.logits.dtype), self.reduction, rows.kept)
