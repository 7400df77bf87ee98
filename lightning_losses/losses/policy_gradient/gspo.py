"""Group sequence policy optimisation: the geometric mean of a completion's ratios is what is clipped."""

from dataclasses import field
from typing import Literal

from lightning_losses.losses.policy_gradient.clipped_policy_loss import ClippedPolicyLoss, Ratios
from lightning_losses.losses.policy_gradient.completion_loss import Aggregation
from lightning_losses.losses.policy_gradient.policy_gradient_loss import PolicyTokens
from lightning_losses.numerics.settings import NonNegative, Share
from lightning_losses.numerics.token_sequences import token_mean


class GSPO(ClippedPolicyLoss):
    """Group sequence policy optimisation: the geometric mean of a completion's ratios is what is clipped.

    ``-min(s_i A_i, clip(s_i, 1 - ε_low, 1 + ε_high) A_i)`` with ``s_i = exp(mean_t log p - log p_old)``, at each token
    of the completion. Level "sequence_token" has ``s_it = sg[s_i] p_it / sg[p_it]``, of the same value, whose gradient
    is the token's own, so that advantages may differ within a completion; where they don't, both levels are equal.

    Args:
        level: "sequence" or "sequence_token".
        epsilon_low: how far below 1 the range begins, from 0 to 1.
        epsilon_high: how far above 1 it ends, at least 0; None: as `epsilon_low`.
        aggregation: how tokens are averaged, by default "seq_mean"; see `CompletionLoss`.

    Shapes:
        logps: [B, T] log-probabilities of the tokens; advantages: [B], at level "sequence_token" also [B, T];
        old_logps, completion_mask, ref_logps, entropies, sampling_ratio (all optional): [B, T].

    Returns:
        A scalar; 0 without a token that counts.

    Raises:
        ValueError: shapes or dtypes that do not fit; advantages of tokens at level "sequence"; a tensor that a setting
            needs and that did not come.

    Source:
        Zheng et al., 2025, "Group Sequence Policy Optimization", arXiv:2507.18071, with ε = 3e-4 and 4e-4, for s is
        much nearer to 1 than a token's ratio. TRL keeps ε = 0.2 unless told. verl has level "sequence_token" alone, and
        caps log s at 10 (`log_ratio_clamp`, which here holds below too); OpenRLHF has no cap.

    Example:
        >>> import torch
        >>> logps, advantages = torch.tensor([[-1.0, -1.0]]), torch.tensor([-1.0])
        >>> GSPO()(logps, advantages, torch.tensor([[-1.0, -1.2]]))  # e^0.1
        tensor(1.1052)
    """

    status = "paper"
    evidence = (
        "values and gradients of huggingface/trl, linkedin/Liger-Kernel, volcengine/verl and OpenRLHF/OpenRLHF, not "
        "the authors' code"
    )

    level: Literal["sequence", "sequence_token"] = "sequence"
    epsilon_low: Share = field(default=3e-4, kw_only=True)
    epsilon_high: NonNegative | None = field(default=4e-4, kw_only=True)
    aggregation: Aggregation = field(default="seq_mean", kw_only=True)

    def ratios(self, given: PolicyTokens) -> Ratios:
        """The ratio of each completion, or that at each of its tokens."""
        mean = token_mean(given.log_ratios, given.kept)
        if self.level == "sequence":
            return Ratios(self.clamped(mean), self.of_completions(given), given.kept.any(dim=1))
        own = mean.detach().unsqueeze(1) + (given.logps - given.logps.detach())
        return Ratios(self.clamped(own), given.advantages, given.kept)
