"""Length-unbiased sequence policy optimisation: GSPO with each completion weighed by its length."""

from dataclasses import field

from lightning_losses.losses.policy_gradient.clipped_policy_loss import ClippedPolicyLoss, Ratios
from lightning_losses.losses.policy_gradient.completion_loss import Aggregation
from lightning_losses.losses.policy_gradient.policy_gradient_loss import PolicyTokens
from lightning_losses.numerics.token_sequences import token_mean


class LUSPO(ClippedPolicyLoss):
    """Length-unbiased sequence policy optimisation: GSPO with each completion weighed by its length.

    ``1/B sum_i n_i (-min(s_i A_i, clip(s_i, 1 - ε_low, 1 + ε_high) A_i))`` with ``s_i`` the geometric mean of the
    ratios of the n_i tokens. So the gradient of a token is not divided by the length of its completion, by which GSPO
    favours short right answers and long wrong ones.

    Args:
        aggregation: how tokens are averaged, by default "seq_sum"; see `CompletionLoss`.

    Shapes:
        logps: [B, T] log-probabilities of the tokens; advantages: [B]; old_logps, completion_mask, ref_logps,
        entropies, sampling_ratio (all optional): [B, T].

    Returns:
        A scalar; 0 without a token that counts.

    Raises:
        ValueError: shapes or dtypes that do not fit; advantages of tokens; a tensor that a setting needs and that did
            not come.

    Source:
        Liu et al., 2026, "Length-Unbiased Sequence Policy Optimization: Revealing and Controlling Response Length
        Variation in RLVR", arXiv:2602.05261. TRL also takes ratios of tokens; here they are of completions. With β
        above 0, TRL once averaged over padding; in its 1.16 as here, the KL is summed over the tokens that count.

    Example:
        >>> import torch
        >>> logps, advantages = torch.tensor([[-1.0, -1.0]]), torch.tensor([-1.0])
        >>> LUSPO()(logps, advantages, torch.tensor([[-1.0, -1.2]]))  # 2 e^0.1
        tensor(2.2103)
    """

    status = "paper"
    evidence = "values and gradients of huggingface/trl and linkedin/Liger-Kernel, not the authors' code"

    aggregation: Aggregation = field(default="seq_sum", kw_only=True)

    def ratios(self, given: PolicyTokens) -> Ratios:
        """The ratio of each completion."""
        mean = token_mean(given.log_ratios, given.kept)
        return Ratios(self.clamped(mean), self.of_completions(given), given.kept.any(dim=1))
