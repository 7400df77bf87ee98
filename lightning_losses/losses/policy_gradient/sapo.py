"""Soft adaptive policy optimisation: a sigmoid of the ratio in the place of clipping."""

from dataclasses import field

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.policy_gradient.completion_loss import Aggregation
from lightning_losses.losses.policy_gradient.policy_gradient_loss import PolicyGradientLoss, PolicyTokens
from lightning_losses.numerics.settings import Temperature


class SAPO(PolicyGradientLoss):
    """Soft adaptive policy optimisation: a sigmoid of the ratio in the place of clipping.

    ``-A (4 / τ) sigmoid(τ (r - 1))`` of each token, with ``r = p / p_old`` and a τ of its own for A > 0. The gradient
    is that of ``-A r`` times ``sech²(τ (r - 1) / 2)``: 1 on the policy that sampled, smaller the farther from it, and 0
    nowhere.

    Args:
        temperature_positive: τ where A > 0, above 0.
        temperature_negative: τ elsewhere; larger, since tokens with A < 0 make training less stable.
        aggregation: how tokens are averaged, by default "seq_mean"; see `CompletionLoss`.

    Shapes:
        logps: [B, T] log-probabilities of the tokens; advantages: [B] or [B, T]; old_logps, completion_mask, ref_logps,
        entropies, sampling_ratio (all optional): [B, T].

    Returns:
        A scalar; 0 without a token that counts.

    Raises:
        ValueError: shapes or dtypes that do not fit; a tensor that a setting needs and that did not come.

    Source:
        Gao et al., 2025, "Soft Adaptive Policy Optimization", arXiv:2511.20347, with τ = 1 and 1.05, as in TRL.

    Example:
        >>> logps, advantages = torch.tensor([[-1.0, -1.0]]), torch.tensor([1.0])
        >>> SAPO()(logps, advantages)  # 4 sigmoid(0)
        tensor(-2.)
    """

    status = "paper"
    evidence = "values and gradients of huggingface/trl and linkedin/Liger-Kernel, not the authors' code"

    temperature_positive: Temperature = 1.0
    temperature_negative: Temperature = 1.05
    aggregation: Aggregation = field(default="seq_mean", kw_only=True)

    def policy(self, given: PolicyTokens) -> Float[Tensor, "batch tokens"]:
        """What each token costs."""
        beyond = torch.expm1(self.clamped(given.log_ratios))
        better, worse = (
            4 / tau * (tau * beyond).sigmoid() for tau in (self.temperature_positive, self.temperature_negative)
        )
        return -given.advantages * torch.where(given.advantages > 0, better, worse)
