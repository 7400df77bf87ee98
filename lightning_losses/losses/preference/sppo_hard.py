"""Self-play preference optimization with hard labels: each completion's log ratio has a value of its own to reach."""

from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.preference.preference_loss import DirectPreferenceLoss, PreferencePairs


class SPPOHard(DirectPreferenceLoss):
    """Self-play preference optimization with hard labels: each completion's log ratio has a value of its own to reach.

    ``(r_w - 1 / (2 β))^2 + (r_l + 1 / (2 β))^2`` with ``r = log p(y)/p_ref(y)`` of whole completions. In the paper the
    reference is the policy of the last round, whose completions these are.

    Args:
        beta: β, above 0: log ratios shall be ``±1 / (2 β)``.

    Shapes:
        chosen_logps, ref_chosen_logps, chosen_mask (optional), chosen_log_collisions (with `weighting`): [B, T], of
        tokens; those of the rejected: [B, S].

    Returns:
        A scalar, or [B] without reduction; 1 / (2 β^2) a pair where policy and reference agree.

    Raises:
        ValueError: shapes or dtypes that do not fit; settings out of range; `weighting` without log collisions.

    Source:
        Wu, Sun, Yuan, Ji, Yang, Gu, 2024, "Self-Play Preference Optimization for Language Model Alignment",
        arXiv:2405.00675, equation 4.7, with 1 and 0 for the estimated probability that a completion wins.

    Example:
        >>> import torch
        >>> even = torch.tensor([[-1.0, -2.0]])
        >>> round(SPPOHard(beta=0.5)(even, even, even, even).item(), 4)
        2.0
    """

    status = "paper"
    evidence = "values and gradients of huggingface/trl, not the authors' code"

    def pairs(self, given: PreferencePairs) -> Float[Tensor, " pairs"]:
        """The value of each pair."""
        aim = 1 / (2 * self.beta)
        return (given.chosen_log_ratios - aim).square() + (given.rejected_log_ratios + aim).square()
