"""Cross-entropy of the tokens to retain, beside a loss that forgets others."""

from dataclasses import field

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.numerics.reduction import Reduction, reduce
from lightning_losses.numerics.token_sequences import completions, token_mask


class RetainNLL(Loss):
    """Negative log-likelihood of the tokens to retain, beside a loss that forgets others.

    ``-mean_t log p_t``. With `gradient_ascent` it makes gradient difference.

    Args:
        reduction: "mean" over all tokens that count, "sum", or "none", [B, S].

    Shapes:
        retain_logps: [B, S] log-probabilities of the tokens to retain; retain_mask (optional): [B, S], other than 0 for
        a token that counts.

    Returns:
        A scalar, or [B, S] without reduction, of at least 0: the mean over all tokens that count, 0 without one.

    Raises:
        ValueError: shapes or dtypes that do not fit.

    Source:
        Liu, Liu, Stone, 2022, "Continual Learning and Private Unlearning", arXiv:2203.12817; Maini, Feng,
        Schwarzschild, Lipton, Kolter, 2024, "TOFU: A Task of Fictitious Unlearning for LLMs", arXiv:2401.06121.

    Example:
        >>> RetainNLL()(torch.tensor([[-1.0, -3.0, -9.0]]), torch.tensor([[1, 1, 0]])).item()
        2.0
    """

    status = "paper"
    evidence = "no golden values: torch's cross-entropy, as the tests have it"

    reduction: Reduction = field(default="mean", kw_only=True)

    def forward(
        self,
        retain_logps: Float[Tensor, "batch tokens"],
        retain_mask: Shaped[Tensor, "batch tokens"] | None = None,
    ) -> Float[Tensor, "..."]:
        """Check and average; see the class."""
        given = completions(self._identifier, "retain_logps", retain_logps, retain_mask)
        with torch.autocast(retain_logps.device.type, enabled=False):
            return reduce(-given.logps, self.reduction, given.kept)

    def denominator(self, **tensors: Tensor) -> Tensor:
        """The tokens that count."""
        return token_mask(self._identifier, "retain_logps", tensors["retain_logps"], tensors.get("retain_mask")).sum()
