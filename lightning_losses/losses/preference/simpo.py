"""SimPO: the mean log-probability of a completion's tokens as its reward, with a margin and without a reference."""

from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.preference.preference_loss import PreferencePairs, ReferenceFreePreferenceLoss
from lightning_losses.numerics.probabilities import softplus
from lightning_losses.numerics.settings import Bound, NonNegative, Positive

# exp(80) is a number in float32.
_LARGEST_EXPONENT = 80.0


class SimPO(ReferenceFreePreferenceLoss):
    """SimPO: the mean log-probability of a completion's tokens as its reward, with a margin and without a reference.

    ``-(1 - ε) log σ(z) - ε log σ(-z)`` with ``z = β r(y_w) - β r(y_l) - γ`` and ``r = (1/|y|) log p(y)``. AlphaPO has
    ``r = (1 - p^-α) / α`` with ``p = exp((1/|y|) log p(y))``: above 0, α makes the reward of unlikely completions fall
    faster, below 0 slower.

    Args:
        beta: β, above 0; 2 to 2.5 in the paper.
        gamma: γ, at least 0: by how much the chosen completion's reward shall be above the other's.
        alpha: α of AlphaPO; 0 is SimPO.
        label_smoothing: ε, at least 0 and below 0.5.

    Shapes:
        chosen_logps, chosen_mask (optional): [B, T], of tokens; those of the rejected: [B, S].

    Returns:
        A scalar, or [B] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; settings out of range.

    Source:
        Meng, Xia, Chen, 2024, "SimPO: Simple Preference Optimization with a Reference-Free Reward", arXiv:2405.14734.
        Gupta and others, 2025, "AlphaPO: Reward Shape Matters for LLM Alignment", arXiv:2501.03884. Powers of p are
        held at e^80.

    Example:
        >>> even = torch.tensor([[-1.0, -2.0]])
        >>> round(SimPO()(even, even).item(), 4)  # log(1 + exp(0.5))
        0.9741
    """

    status = "paper"
    evidence = "values and gradients of huggingface/trl, not the authors' code"

    beta: Positive = 2.0
    gamma: NonNegative = 0.5
    alpha: float = 0.0
    label_smoothing: Annotated[float, Bound(least=0, below=0.5)] = 0.0

    def pairs(self, given: PreferencePairs) -> Float[Tensor, " pairs"]:
        """The value of each pair."""
        logits = self.beta * (self.rewards(given.chosen_means) - self.rewards(given.rejected_means)) - self.gamma
        return (1 - self.label_smoothing) * softplus(-logits) + self.label_smoothing * softplus(logits)

    def rewards(self, means: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """r from mean log-probabilities; β times it is a completion's reward."""
        if self.alpha == 0:
            return means
        return -torch.expm1((-self.alpha * means).clamp(max=_LARGEST_EXPONENT)) / self.alpha
