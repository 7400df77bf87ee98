"""Span correlation: matches the teacher's correlation of the predictions of neighbouring tokens within a span."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.numerics.checks import check_tensor
from lightning_losses.numerics.probabilities import known_everywhere, log_probabilities
from lightning_losses.numerics.reduction import Reduction
from lightning_losses.numerics.rows import distillation_rows
from lightning_losses.numerics.settings import Temperature


class SpanCorrelation(Loss):
    """Span correlation: matches the teacher's correlation of the predictions of neighbouring tokens within a span.

    ``mean over pairs of (1/C) sum_k (s_j s_(j+1) - t_j t_(j+1))²``, over neighbouring tokens j, j + 1 of one span, with
    s and t the student's and the teacher's probabilities of class k at temperature τ. Spans are the phrases that a
    parser finds; a span of one token has no pair. For a large vocabulary the products are small, and so is the loss.

    Args:
        temperature: τ, above 0.

    Shapes:
        logits, teacher_logits: [..., T, C]; spans (optional; without it each sequence is one span): [..., T] int64,
        neighbours with the same number are in one span; a number below 0 marks tokens outside all spans, such as
        padding.

    Returns:
        A scalar; 0 where there is no pair.

    Raises:
        ValueError: shapes or dtypes that do not fit; a temperature of 0 or less.

    Source:
        After Liu et al., 2024, "Multi-Granularity Semantic Revision for Large Language Model Distillation",
        arXiv:2407.10068, implemented from descriptions; the squared difference is this library's choice of distance.

    Example:
        >>> logits = torch.tensor([[9.0, -9.0], [9.0, -9.0], [-9.0, 9.0]])
        >>> loss = SpanCorrelation()
        >>> round(loss(logits, -logits, torch.tensor([0, 0, 1])).item(), 4)  # one pair, both classes wrong
        1.0
    """

    status = "experimental"
    evidence = "no golden values: made from descriptions; the definition in its tests"
    # A mean over pairs, so processes are weighed by their pairs.
    reduction: ClassVar[Reduction] = "mean"

    temperature: Temperature = 1.0

    def denominator(self, **tensors: Tensor) -> Tensor:
        """The number of pairs of neighbours."""
        return self._pairs(tensors["logits"], tensors.get("spans")).sum()

    def forward(
        self,
        logits: Float[Tensor, "*batch tokens classes"],
        teacher_logits: Float[Tensor, "*batch tokens classes"],
        spans: Int[Tensor, "*batch tokens"] | None = None,
    ) -> Float[Tensor, ""]:
        """Check and evaluate; see the class."""
        student, teacher, *_ = distillation_rows(self._identifier, logits, teacher_logits)
        paired = self._pairs(student, spans)
        inside = F.pad(paired, (1, 0)) | F.pad(paired, (0, 1))
        if not known_everywhere(inside):
            # Tokens outside all pairs may hold NaN.
            student, teacher = (z.masked_fill(~inside.unsqueeze(-1), 0.0) for z in (student, teacher))
        log_s, log_t = (log_probabilities(z, self.temperature) for z in (student, teacher))
        # Products of neighbours' probabilities, from their logarithms.
        apart = (log_s[..., :-1, :] + log_s[..., 1:, :]).exp() - (log_t[..., :-1, :] + log_t[..., 1:, :]).exp()
        value = apart.square().mean(dim=-1).masked_fill(~paired, 0.0)
        return value.sum() / paired.sum().clamp(min=1)

    def _pairs(
        self, logits: Float[Tensor, "*batch tokens classes"], spans: Int[Tensor, "*batch tokens"] | None
    ) -> Bool[Tensor, "*batch pairs"]:
        """Whether each token and the next one lie in one span."""
        if logits.ndim < 2:
            raise ValueError(f"{self._identifier}: logits of shape {list(logits.shape)} came; give [..., tokens, C].")
        if spans is None:
            return torch.ones(*logits.shape[:-2], max(logits.shape[-2] - 1, 0), dtype=torch.bool, device=logits.device)
        check_tensor(self._identifier, "spans", spans)
        if spans.shape != logits.shape[:-1] or spans.dtype != torch.int64:
            raise ValueError(
                f"{self._identifier}: spans of shape {list(spans.shape)} and dtype {spans.dtype} came with logits of "
                f"shape {list(logits.shape)}; give an int64 number for each token, below 0 for tokens in no span."
            )
        return (spans[..., 1:] == spans[..., :-1]) & (spans[..., 1:] >= 0)
