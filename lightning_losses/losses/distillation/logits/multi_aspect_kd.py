"""Multi-aspect distillation: extra outputs learn a multimodal language model's answers to yes-or-no questions."""

from dataclasses import field

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.numerics.checks import check_floating
from lightning_losses.numerics.probabilities import full_precision, known_finite
from lightning_losses.numerics.reduction import Reduction, reduce
from lightning_losses.numerics.rows import check_shares


class MultiAspectKD(Loss):
    """Multi-aspect distillation: extra outputs learn a multimodal language model's answers to yes-or-no questions.

    ``mean_m BCE(sigmoid(z_m), q_m)`` over the questions m that have an answer, with q_m the model's probability of yes.
    Its minimum is the entropy of q, not 0. `lightning_losses.mixins.multi_aspect.MultiAspectMixin` takes the outputs z
    from the same head, after the classes; the batch holds the answers.

    Args:
        reduction: "mean" over the samples that have an answer, "sum", or "none".

    Shapes:
        aspect_logits: [..., M]; teacher_aspects: [..., M] probabilities of yes, NaN where a question has no answer.

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit.

    Source:
        Lee, Jang, Kim, Kim, 2025, "Multi-aspect Knowledge Distillation with Large Language Model", arXiv:2501.13341,
        and its code, which adds it to cross-entropy with weight 4 for 50 questions. Missing answers are this library's.

    Example:
        >>> answers = torch.tensor([[1.0, 0.0, float("nan")]])
        >>> round(MultiAspectKD()(torch.tensor([[9.0, -9.0, 5.0]]), answers).item(), 4)
        0.0001
    """

    status = "confirmed"
    evidence = "taegyeong-lee/MaKD-Multi-aspect-knowledge-distillation-with-Large-Language-Model"

    reduction: Reduction = field(default="mean", kw_only=True)

    def denominator(self, **tensors: Tensor) -> Tensor:
        """The number of samples that have an answer."""
        return (~torch.isnan(tensors["teacher_aspects"])).any(dim=-1).sum()

    def forward(
        self, aspect_logits: Float[Tensor, "*rows aspects"], teacher_aspects: Float[Tensor, "*rows aspects"]
    ) -> Float[Tensor, "..."]:
        """Check, evaluate and reduce; see the class."""
        for name, tensor in (("aspect_logits", aspect_logits), ("teacher_aspects", teacher_aspects)):
            check_floating(self._identifier, name, tensor)
        if aspect_logits.shape[-1:] in ((), (0,)) or aspect_logits.shape != teacher_aspects.shape:
            raise ValueError(
                f"{self._identifier}: teacher_aspects of shape {list(teacher_aspects.shape)} came with aspect_logits "
                f"of shape {list(aspect_logits.shape)}; give one probability of yes for each of at least one question."
            )
        check_shares(self._identifier, "teacher_aspects", teacher_aspects)
        logits = full_precision(aspect_logits)
        answer = teacher_aspects.detach().to(logits.dtype)
        if logits.device.type == "cpu":
            value = F.binary_cross_entropy_with_logits(logits, answer, reduction="none").mean(dim=-1)
            if known_finite(value):
                return reduce(value, self.reduction)
        known = ~torch.isnan(answer)
        count = known.sum(dim=-1)
        share = known.to(logits) / count.clamp(min=1).unsqueeze(-1)
        value = F.binary_cross_entropy_with_logits(logits, answer.masked_fill(~known, 0.0), share, reduction="none")
        return reduce(value.sum(dim=-1), self.reduction, count > 0)
