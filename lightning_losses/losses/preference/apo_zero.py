"""Anchored preference optimization, zero: chosen completions go up and rejected ones down, each from the reference."""

from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.preference.preference_loss import DirectPreferenceLoss, PreferencePairs


class APOZero(DirectPreferenceLoss):
    """Anchored preference optimization, zero: chosen completions go up and rejected ones down, each from the reference.

    ``σ(-β r_w) + σ(β r_l)`` with ``r = log p(y)/p_ref(y)`` of whole completions. It is for chosen completions that are
    better than the model's own; `APODown` is for those that are worse.

    Args:
        beta: β, above 0; the smaller, the further the policy may go.

    Shapes:
        chosen_logps, ref_chosen_logps, chosen_mask (optional), chosen_log_collisions (with `weighting`): [B, T], of
        tokens; those of the rejected: [B, S].

    Returns:
        A scalar, or [B] without reduction; from 0 to 2 a pair, 1 where policy and reference agree.

    Raises:
        ValueError: shapes or dtypes that do not fit; settings out of range; `weighting` without log collisions.

    Source:
        D'Oosterlinck, Xu, Develder, Demeester, Singh, Potts, Kiela, Mehri, 2024, "Anchored Preference Optimization and
        Contrastive Revisions: Addressing Underspecification in Alignment", arXiv:2408.06266, equation 7, plus 1.

    Example:
        >>> import torch
        >>> even = torch.tensor([[-1.0, -2.0]])
        >>> APOZero()(even, even, even, even).item()
        1.0
    """

    status = "paper"
    evidence = "values and gradients of huggingface/trl, not the authors' code"

    def pairs(self, given: PreferencePairs) -> Float[Tensor, " pairs"]:
        """The value of each pair."""
        return (-self.beta * given.chosen_log_ratios).sigmoid() + (self.beta * given.rejected_log_ratios).sigmoid()
