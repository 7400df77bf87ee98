"""DeiT's distillation: the class token learns the label, the distillation token the teacher."""

from typing import Literal

from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.losses.kinds import TaughtLoss
from lightning_losses.numerics.checks import check_floating
from lightning_losses.numerics.divergences import cross_entropy, kl_divergence
from lightning_losses.numerics.probabilities import finite_logarithms, log_probabilities
from lightning_losses.numerics.reduction import reduce
from lightning_losses.numerics.rows import required_target
from lightning_losses.numerics.settings import Share, Temperature


class DeiTDistill(TaughtLoss):
    """DeiT's distillation: the class token learns the label, the distillation token the teacher.

    ``(1 - α) CE(logits, y) + α D(distillation_logits, teacher_logits)`` where D is cross-entropy to the teacher's
    largest class ("hard"), or ``τ² KL(t || s)`` at temperature τ ("soft").

    Args:
        alpha: α, in [0, 1].
        kind: what the distillation token learns from the teacher.
        temperature: τ of the soft kind, above 0.
        normalizer: "classes" divides the soft kind by C, as the authors' code does; "batch" doesn't, so that it equals
            `KD`.

    Shapes:
        logits, teacher_logits: [..., C]; target: [...] class indices or [..., C] probabilities; distillation_logits
        (optional): [..., C], the distillation token's; `logits` by default.

    Returns:
        A scalar, or [...] without reduction. Infinite where the target's class is masked in the student. Any other
        class that the student alone masks has probability e^-100 instead of 0.

    Raises:
        ValueError: shapes or dtypes that do not fit; an alpha outside [0, 1]; an unknown kind or normalizer; a
            temperature of 0 or less.

    Source:
        Touvron, Cord, Douze, Massa, Sablayrolles, Jégou, 2021, "Training data-efficient image transformers &
        distillation through attention", arXiv:2012.12877, and its code facebookresearch/deit. The loss contains the
        label's term: use it without a further cross-entropy.

    Example:
        >>> import torch
        >>> logits, target = torch.tensor([[2.0, 0.0]]), torch.tensor([0])
        >>> round(DeiTDistill()(logits, -logits, target).item(), 4)  # half the label's, half the teacher's
        1.1269
    """

    status = "paper"
    evidence = "AlphaXia/TLEG, not the authors' code"

    alpha: Share = 0.5
    kind: Literal["hard", "soft"] = "hard"
    temperature: Temperature = 1.0
    normalizer: Literal["classes", "batch"] = "classes"

    def forward(
        self,
        logits: Float[Tensor, "*rows classes"],
        teacher_logits: Float[Tensor, "*rows classes"],
        target: Shaped[Tensor, "..."],
        distillation_logits: Float[Tensor, "*rows classes"] | None = None,
    ) -> Float[Tensor, "..."]:
        """Check, evaluate and reduce; see the class."""
        target = required_target(self._identifier, target)
        first = self.pairs(logits, teacher_logits, target)
        second = first
        if distillation_logits is not None:
            check_floating(self._identifier, "distillation_logits", distillation_logits)
            second = self.pairs(distillation_logits, teacher_logits, target)
        label = cross_entropy(log_probabilities(first.logits), required_target(self._identifier, first.target))
        if self.kind == "hard":
            log_s = finite_logarithms(log_probabilities(second.logits))
            largest, predicted = second.teacher_logits.max(dim=-1)
            # A teacher of NaN has a largest class all the same; the sum makes the loss NaN.
            taught = cross_entropy(log_s, predicted) + 0.0 * largest
        else:
            scores = (self.widened(z) for z in (second.teacher_logits, second.logits))
            log_t, log_s = (log_probabilities(z, self.temperature) for z in scores)
            taught = (self.temperature**2 * kl_divergence(log_t, log_s)).to(label.dtype)
            taught = taught / logits.shape[-1] if self.normalizer == "classes" else taught
        return reduce((1 - self.alpha) * label + self.alpha * taught, self.reduction, first.kept)
