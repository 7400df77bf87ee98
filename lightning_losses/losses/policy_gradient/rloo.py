"""REINFORCE leave-one-out: ratios of whole completions, with the others of a prompt as each one's baseline."""

from dataclasses import field

from lightning_losses.losses.policy_gradient.clipped_policy_loss import ClippedPolicyLoss, Ratios
from lightning_losses.losses.policy_gradient.completion_loss import Aggregation
from lightning_losses.losses.policy_gradient.policy_gradient_loss import PolicyTokens


class RLOO(ClippedPolicyLoss):
    """REINFORCE leave-one-out: ratios of whole completions, with the others of a prompt as each one's baseline.

    ``1/B sum_i -min(q_i A_i, clip(q_i, 1 - ε_low, 1 + ε_high) A_i)`` with ``q_i = exp(sum_t log p - log p_old)`` and A
    from `rloo_advantage`. On the policy that sampled, the gradient is REINFORCE's, which no length divides. The KL to a
    reference belongs into the rewards.

    Args:
        aggregation: how tokens are averaged, by default "seq_mean"; see `CompletionLoss`.

    Shapes:
        logps: [B, T] log-probabilities of the tokens; advantages: [B]; old_logps, completion_mask, ref_logps,
        entropies, sampling_ratio (all optional): [B, T].

    Returns:
        A scalar; 0 without a token that counts.

    Raises:
        ValueError: shapes or dtypes that do not fit; advantages of tokens; a tensor that a setting needs and that did
            not come.

    Source:
        Ahmadian et al., 2024, "Back to Basics: Revisiting REINFORCE-Style Optimization for Learning from Human Feedback
        in LLMs", arXiv:2402.14740; the clipping is TRL's. A completion without tokens costs -A in TRL, without
        gradient, and is left out here. TRL doesn't clamp q's logarithm, which long completions soon overflow.

    Example:
        >>> import torch
        >>> logps, advantages = torch.tensor([[-1.0, -1.0], [-1.0, -1.0]]), torch.tensor([1.0, -1.0])
        >>> RLOO()(logps, advantages, logps - 0.5)  # both ratios are e: one is held at 1.2
        tensor(0.7591)
    """

    status = "paper"
    evidence = "values and gradients of huggingface/trl, not the authors' code"

    aggregation: Aggregation = field(default="seq_mean", kw_only=True)

    def ratios(self, given: PolicyTokens) -> Ratios:
        """The ratio of each completion."""
        whole = self.clamped(given.log_ratios.sum(dim=1))
        return Ratios(whole, self.of_completions(given), given.kept.any(dim=1))
