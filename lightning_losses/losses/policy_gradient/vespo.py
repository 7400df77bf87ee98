"""Variational sequence-level soft policy optimisation: REINFORCE with a smooth weight of a completion's ratio."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.policy_gradient.policy_gradient_loss import PolicyGradientLoss, PolicyTokens
from lightning_losses.numerics.settings import NonNegative

# The smallest ratio of a completion.
_LEAST = math.log(1e-8)


class VESPO(PolicyGradientLoss):
    """Variational sequence-level soft policy optimisation: REINFORCE with a smooth weight of a completion's ratio.

    ``-sg[φ] A log p`` of each token, with ``φ = W^k exp(λ (1 - W))`` and W the ratio of the completion's probabilities,
    the product over its tokens. φ is 1 on the policy that sampled, largest at W = k / λ, and falls to 0 on both sides.
    k and λ are others for A < 0. Its value says little; compare gradients with other losses'.

    Args:
        k_positive: k where A is at least 0; at least 0.
        lambda_positive: λ there, at least 0.
        k_negative: k where A < 0.
        lambda_negative: λ there, at least 0.

    Shapes:
        logps: [B, T] log-probabilities of the tokens; advantages: [B] or [B, T]; old_logps, completion_mask, ref_logps,
        entropies, sampling_ratio (all optional): [B, T]. The sampling ratio is a part of W.

    Returns:
        A scalar; 0 without a token that counts.

    Raises:
        ValueError: shapes or dtypes that do not fit; a tensor that a setting needs and that did not come.

    Source:
        Shen et al., 2026, "VESPO: Variational Sequence-Level Soft Policy Optimization for Stable Off-Policy LLM
        Training", arXiv:2602.10693, with k and λ of 2 and 3, and of 3 and 2, as in TRL. Logarithms of tokens' ratios
        are held within ± `log_ratio_clamp`, those of W and of sampling ratios from log 1e-8 to 20. TRL multiplies the
        sampling ratios of all positions; here of those that count.

    Example:
        >>> logps, advantages = torch.tensor([[-1.0, -2.0]]), torch.tensor([1.0])
        >>> VESPO()(logps, advantages)  # a policy's own samples: the mean of -log p
        tensor(1.5000)
    """

    status = "paper"
    evidence = "values and gradients of huggingface/trl, not the authors' code"
    takes_sampling_ratio = True

    k_positive: NonNegative = 2.0
    lambda_positive: NonNegative = 3.0
    k_negative: NonNegative = 3.0
    lambda_negative: NonNegative = 2.0

    def policy(self, given: PolicyTokens) -> Float[Tensor, "batch tokens"]:
        """What each token costs."""
        log_ratios = self.clamped(given.log_ratios.detach())
        if given.sampling_ratio is not None:
            log_ratios = log_ratios + given.sampling_ratio.log().clamp(_LEAST, 20.0)
        whole = log_ratios.sum(dim=1, keepdim=True).clamp(_LEAST, 20.0)
        better, worse = (
            (lam + k * whole - lam * whole.exp()).exp()
            for k, lam in ((self.k_positive, self.lambda_positive), (self.k_negative, self.lambda_negative))
        )
        return -torch.where(given.advantages >= 0, better, worse) * given.advantages * given.logps
