"""Gradient ascent: the log-probabilities of the tokens to forget go down, without a bound."""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.unlearning.forgetting import TokenAscent


class GradientAscent(TokenAscent):
    """Gradient ascent: the log-probabilities of the tokens to forget go down, without a bound.

    ``mean_t log p_t``: cross-entropy with the other sign. Its gradient grows no weaker as a token becomes unlikely, so
    the loss has no minimum, and training ends in a model that says nothing sensible unless it is stopped, or unless
    another term holds on to what shall be kept; `objective=grad_diff` adds `retain_nll` (gradient difference).

    Shapes:
        forget_logps: [B, T] log-probabilities of the tokens to forget; forget_mask (optional): [B, T], other than 0 for
        a token that counts.

    Returns:
        A scalar, or [B, T] without reduction, of at most 0: the mean over all tokens that count, 0 without one.

    Raises:
        ValueError: shapes or dtypes that do not fit.

    Source:
        Jang, Yoon, Yang, Cha, Lee, Logeswaran, Seo, 2022, "Knowledge Unlearning for Mitigating Privacy Risks in
        Language Models", arXiv:2210.01504. Gradient difference: Liu, Liu, Stone, 2022, "Continual Learning and Private
        Unlearning", arXiv:2203.12817.

    Example:
        >>> GradientAscent()(torch.tensor([[-1.0, -3.0, -9.0]]), torch.tensor([[1, 1, 0]])).item()
        -2.0
    """

    status = "paper"
    evidence = "no golden values: minus torch's cross-entropy, as the tests have it"

    def token_weights(self, logps: Float[Tensor, "batch tokens"]) -> Float[Tensor, "batch tokens"]:
        """All tokens count alike."""
        return torch.ones_like(logps)
