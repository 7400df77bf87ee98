"""DiscoPOP: logistic and exponential loss mixed by the margin itself, a loss that a language model found."""

from typing import Annotated

from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.preference.preference_loss import DirectPreferenceLoss, PreferencePairs
from lightning_losses.numerics.probabilities import softplus
from lightning_losses.numerics.settings import Bound


class DiscoPOP(DirectPreferenceLoss):
    """DiscoPOP: logistic and exponential loss mixed by the margin itself, a loss that a language model found.

    ``-(1 - m) log σ(β Δ) + m exp(-β Δ)`` with ``m = σ(β Δ / τ)`` and Δ the difference of the log ratios of policy and
    reference. It isn't convex: it has a local minimum a little below Δ = 0, and a maximum a little above.

    Args:
        beta: β, above 0; the smaller, the further the policy may go.
        temperature: τ, above 0 and at most 1, for the exponential part has no bound above that.

    Shapes:
        chosen_logps, ref_chosen_logps, chosen_mask (optional), chosen_log_collisions (with `weighting`): [B, T], of
        tokens; those of the rejected: [B, S].

    Returns:
        A scalar, or [B] without reduction; (1 + log 2) / 2 a pair where policy and reference agree.

    Raises:
        ValueError: shapes or dtypes that do not fit; settings out of range; `weighting` without log collisions.

    Source:
        Lu, Holt, Fanconi, Chan, Foerster, van der Schaar, Lange, 2024, "Discovering Preference Optimization Algorithms
        with and for Large Language Models", arXiv:2406.08414, equation 5, with τ = 0.05.

    Example:
        >>> import torch
        >>> even = torch.tensor([[-1.0, -2.0]])
        >>> round(DiscoPOP()(even, even, even, even).item(), 4)
        0.8466
    """

    status = "paper"
    evidence = "values and gradients of huggingface/trl, not the authors' code"

    temperature: Annotated[float, Bound(above=0, most=1)] = 0.05

    def pairs(self, given: PreferencePairs) -> Float[Tensor, " pairs"]:
        """The value of each pair."""
        logits = self.beta * given.margins
        tempered = logits / self.temperature
        # One exponent: far below 0 the exponential overflows and its share underflows.
        exponential = (-logits - softplus(-tempered)).exp()
        return (-tempered).sigmoid() * softplus(-logits) + exponential
