"""Clipped importance-sampling policy optimisation: the weight of a token is clipped, never its gradient."""

from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.policy_gradient.policy_gradient_loss import PolicyGradientLoss, PolicyTokens
from lightning_losses.numerics.settings import NonNegative, Positive


class CISPO(PolicyGradientLoss):
    """Clipped importance-sampling policy optimisation: the weight of a token is clipped, never its gradient.

    ``-sg[clip(r, low, high)] A log p`` of each token, with ``r = p / p_old``: REINFORCE with weights, in which rare
    tokens that became much likelier keep their gradient. Its value says little; compare gradients with other losses'.

    Args:
        max_ratio: the largest weight, above 0. It is the weight itself: TRL's `epsilon_high`, and verl's plus 1.
        min_ratio: the smallest one, at least 0: verl's 1 - ε_low; TRL has none.

    Shapes:
        logps: [B, T] log-probabilities of the tokens; advantages: [B] or [B, T]; old_logps, completion_mask, ref_logps,
        entropies, sampling_ratio (all optional): [B, T].

    Returns:
        A scalar; 0 without a token that counts.

    Raises:
        ValueError: shapes or dtypes that do not fit; a tensor that a setting needs and that did not come; a smallest
            weight above the largest.

    Source:
        MiniMax, 2025, "MiniMax-M1: Scaling Test-Time Compute Efficiently with Lightning Attention", arXiv:2506.13585.
        TRL suggests 5 for the largest weight, as here, with a default of 0.2 that it shares with other losses; verl's
        range is 0.8 to 1.2.

    Example:
        >>> import torch
        >>> logps, advantages = torch.tensor([[-1.0, -2.0]]), torch.tensor([1.0])
        >>> CISPO()(logps, advantages)  # a policy's own samples: the mean of -log p
        tensor(1.5000)
    """

    status = "paper"
    evidence = (
        "values and gradients of huggingface/trl, linkedin/Liger-Kernel and volcengine/verl, not the authors' code"
    )

    max_ratio: Positive = 5.0
    min_ratio: NonNegative = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_ratio > self.max_ratio:
            raise ValueError(
                f"{self._identifier}: min_ratio={self.min_ratio} came with max_ratio={self.max_ratio}; give a smallest "
                "weight that is at most the largest."
            )

    def policy(self, given: PolicyTokens) -> Float[Tensor, "batch tokens"]:
        """What each token costs."""
        weight = self.clamped(given.log_ratios.detach()).exp().clamp(self.min_ratio, self.max_ratio)
        return -weight * given.advantages * given.logps
