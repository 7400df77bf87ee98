"""What losses of unlearning share: weighted means of tokens, and means over the sequences that have one."""

from abc import abstractmethod
from dataclasses import field
from typing import Any

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.numerics.reduction import Reduction, reduce
from lightning_losses.numerics.token_sequences import completions, token_mask


class TokenAscent(Loss):
    """A weighted mean of the log-probabilities of the tokens to forget: minimising it lowers them.

    A loss of it writes `token_weights`. The mean divides by the number of tokens that count, not by their weights.

    Args:
        reduction: "mean" over all tokens that count, "sum", or "none", [B, T].
    """

    reduction: Reduction = field(default="mean", kw_only=True)

    @abstractmethod
    def token_weights(self, logps: Float[Tensor, "batch tokens"]) -> Float[Tensor, "batch tokens"]:
        """How much each token counts, from log-probabilities without gradient."""

    def forward(
        self,
        forget_logps: Float[Tensor, "batch tokens"],
        forget_mask: Shaped[Tensor, "batch tokens"] | None = None,
    ) -> Float[Tensor, "..."]:
        """Check, weigh and average; see the class."""
        given = completions(self._identifier, "forget_logps", forget_logps, forget_mask)
        with torch.autocast(forget_logps.device.type, enabled=False):
            weights = self.token_weights(given.logps.detach())
            # A token without weight may be impossible: its logarithm is then infinite.
            return reduce(weights * given.logps.masked_fill(weights == 0, 0.0), self.reduction, given.kept)

    def denominator(self, **tensors: Tensor) -> Tensor:
        """The tokens that count."""
        return token_mask(self._identifier, "forget_logps", tensors["forget_logps"], tensors.get("forget_mask")).sum()


class ForgottenSequences(Loss):
    """A loss with a value for each sequence to forget; one without a token that counts is left out of the mean.

    Args:
        reduction: "mean" over the sequences with a token that counts, "sum", or "none", [B].
    """

    reduction: Reduction = field(default="mean", kw_only=True)

    @abstractmethod
    def forward(self, *arguments: Any, **tensors: Any) -> Float[Tensor, "..."]:
        """Check and evaluate; a loss of it names what it takes."""

    def reduced(self, values: Float[Tensor, " batch"], kept: Bool[Tensor, "batch tokens"]) -> Float[Tensor, "..."]:
        """The values of the sequences with a token that counts, reduced."""
        return reduce(values, self.reduction, kept.any(dim=1))

    def denominator(self, **tensors: Tensor) -> Tensor:
        """The sequences with a token that counts."""
        kept = token_mask(self._identifier, "forget_logps", tensors["forget_logps"], tensors.get("forget_mask"))
        return kept.any(dim=1).sum()


def check_pairs(loss: str, forget: Float[Tensor, "batch tokens"], refusal: Float[Tensor, "batch more"]) -> None:
    """Refuse refusals of other samples than the texts to forget.

    Raises:
        ValueError: different numbers of rows.
    """
    if len(forget) != len(refusal):
        raise ValueError(
            f"{loss}: {len(forget)} sequences to forget came with {len(refusal)} refusals; give one for each."
        )
