"""SatImp: gradient ascent on the tokens to forget that are neither known for sure nor unknown."""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.unlearning.forgetting import TokenAscent
from lightning_losses.numerics.settings import NonNegative


class SatImp(TokenAscent):
    """SatImp: gradient ascent that weighs tokens by saturation and importance.

    ``mean_t p_t^a (1 - p_t)^b log p_t``, where the weights have no gradient: ``p^a`` lets go of tokens that are
    forgotten (saturation), ``(1 - p)^b`` spares those that any model would say, such as the rest of a word
    (importance). With b = 0 it is `wga`.

    Args:
        beta1: a, at least 0.
        beta2: b, at least 0.

    Shapes:
        forget_logps: [B, T] log-probabilities of the tokens to forget; forget_mask (optional): [B, T], other than 0 for
        a token that counts.

    Returns:
        A scalar, or [B, T] without reduction; at most 0, and 0 without a token that counts.

    Raises:
        ValueError: shapes or dtypes that do not fit; a beta1 or beta2 below 0.

    Source:
        Yang, Wang, Huang, Liu, Zhang, Han, 2025, "Exploring Criteria of Loss Reweighting to Enhance LLM Unlearning",
        arXiv:2505.11953. The values and defaults are those of locuslab/open-unlearning.

    Example:
        >>> round(SatImp(beta1=1.0, beta2=1.0)(torch.tensor([[0.5]]).log()).item(), 4)  # log(1/2) / 4
        -0.1733
    """

    status = "paper"
    evidence = "locuslab/open-unlearning, not the authors' code"

    beta1: NonNegative = 5.0
    beta2: NonNegative = 1.0

    def token_weights(self, logps: Float[Tensor, "batch tokens"]) -> Float[Tensor, "batch tokens"]:
        """``p^a (1 - p)^b``."""
        saturation = (self.beta1 * logps).exp() if self.beta1 else torch.ones_like(logps)
        # Rounding may put a probability above 1.
        return saturation * (-torch.expm1(logps)).clamp(min=0) ** self.beta2
