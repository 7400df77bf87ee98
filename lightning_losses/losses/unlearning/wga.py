"""Weighted gradient ascent: tokens to forget that are unlikely already pull less."""

from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.unlearning.forgetting import TokenAscent
from lightning_losses.numerics.settings import NonNegative


class WGA(TokenAscent):
    """Weighted gradient ascent: tokens to forget that are unlikely already pull less.

    ``mean_t p_t^β log p_t``, where p_t^β has no gradient. At β = 0 it is `gradient_ascent`; above, an unlikely token
    pulls no more, so that training comes to rest.

    Args:
        beta: β, at least 0.

    Shapes:
        forget_logps: [B, T] log-probabilities of the tokens to forget; forget_mask (optional): [B, T], other than 0 for
        a token that counts.

    Returns:
        A scalar, or [B, T] without reduction; at most 0, and 0 without a token that counts.

    Raises:
        ValueError: shapes or dtypes that do not fit; a beta below 0.

    Source:
        Wang, Zhou, Zhou, Han, Shin, Han, Weinberger, 2025, "Rethinking LLM Unlearning Objectives: A Gradient
        Perspective and Go Beyond", arXiv:2502.19301. The values are those of locuslab/open-unlearning, with β = 1.

    Example:
        >>> import torch
        >>> round(WGA(beta=1.0)(torch.tensor([[0.5]]).log()).item(), 4)  # log(1/2) / 2
        -0.3466
    """

    status = "paper"
    evidence = "locuslab/open-unlearning, not the authors' code"

    beta: NonNegative = 1.0

    def token_weights(self, logps: Float[Tensor, "batch tokens"]) -> Float[Tensor, "batch tokens"]:
        """``p^β``."""
        return (self.beta * logps).exp() if self.beta else logps.new_ones(logps.shape)
