"""The kind of losses that average what the tokens of completions cost."""

from abc import abstractmethod
from dataclasses import field
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.numerics.settings import Count
from lightning_losses.numerics.token_sequences import token_mean

Aggregation = Literal["token_mean", "seq_mean", "max_length", "seq_sum"]


class CompletionLoss(Loss):
    """A mean over completions of what each of their tokens costs.

    With the value l of each token that counts, n of them in a completion and B completions:

    - "token_mean": ``sum l / sum n``. Over a whole optimizer step it is what DAPO has, as `denominator` weighs batches
      and processes by their tokens (TRL's dapo; its bnpo and verl's token-mean within one batch).
    - "seq_mean": ``1/B sum_i (sum_t l / n_i)``: short completions weigh as much as long ones (TRL's grpo, verl's
      seq-mean-token-mean).
    - "max_length": ``sum l / (B L)`` with L = `max_completion_length` (TRL's dr_grpo; verl's seq-mean-token-sum-norm
      leaves B out).
    - "seq_sum": ``sum l / B`` (verl's seq-mean-token-sum).

    Args:
        aggregation: one of these.
        max_completion_length: L of "max_length", at least 1, in tokens; not the width of the batch, which padding
            changes.
        count_empty: whether a completion without a token that counts is one of the B, as TRL has it. verl and OpenRLHF
            leave it out, as is done here with everything that is masked.
    """

    # Each of them is a mean, whose divisor `denominator` knows.
    reduction: ClassVar[Literal["mean"]] = "mean"

    aggregation: Aggregation = field(default="token_mean", kw_only=True)
    max_completion_length: Count | None = field(default=None, kw_only=True)
    count_empty: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.aggregation == "max_length" and self.max_completion_length is None:
            raise ValueError(
                f"{self._identifier}: aggregation='max_length' came without max_completion_length; give the largest "
                "number of tokens that a completion may have."
            )

    @abstractmethod
    def counted(self, **tensors: Tensor) -> Bool[Tensor, "batch tokens"]:
        """Which tokens of a step's tensors count."""

    def denominator(self, **tensors: Tensor) -> Tensor:
        """What the mean divides by: the tokens that count, or the completions."""
        return self._divisor(self.counted(**tensors))

    def average(self, values: Float[Tensor, "batch tokens"], kept: Bool[Tensor, "batch tokens"]) -> Float[Tensor, ""]:
        """The mean of the tokens' values; 0 without a token that counts."""
        values = values.masked_fill(~kept, 0.0)
        if self.aggregation == "seq_mean":
            total = token_mean(values, kept).sum()
        elif self.aggregation == "max_length":
            assert self.max_completion_length is not None
            total = values.sum() / self.max_completion_length
        else:
            total = values.sum()
        return total / self._divisor(kept).clamp(min=1)

    def _divisor(self, kept: Bool[Tensor, "batch tokens"]) -> Tensor:
        if self.aggregation == "token_mean":
            return kept.sum()
        if self.count_empty:
            return torch.full((), len(kept), device=kept.device)
        return kept.any(dim=1).sum()


def with_normalizer(loss: CompletionLoss, normalizer: float, **tensors: Tensor) -> Float[Tensor, ""]:
    """The loss with another divisor than its own: for a loop that knows the tokens of its whole optimizer step.

    Modules with `ObjectiveMixin` need no such thing: they make the mean that of the step.

    Args:
        loss: what is averaged.
        normalizer: the tokens, or the completions, of the step, as the loss's aggregation counts; divided by the number
            of processes where their gradients are averaged.
        **tensors: of this batch.

    Example:
        >>> from lightning_losses.losses import GRPO
        >>> logps, advantages = torch.zeros(2, 3), torch.ones(2)
        >>> GRPO()(logps, advantages), with_normalizer(GRPO(), 12, logps=logps, advantages=advantages)
        (tensor(-1.), tensor(-0.5000))
    """
    value: Tensor = loss(**tensors)
    return value * loss.denominator(**tensors).clamp(min=1) / normalizer
