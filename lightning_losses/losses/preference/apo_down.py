"""Anchored preference optimization, down: both completions become less likely, the rejected one by more."""

from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.preference.preference_loss import DirectPreferenceLoss, PreferencePairs


class APODown(DirectPreferenceLoss):
    """Anchored preference optimization, down: both completions become less likely, the rejected one by more.

    ``σ(β r_w) + σ(-β (r_w - r_l))`` with ``r = log p(y)/p_ref(y)`` of whole completions. It is for chosen completions
    that are worse than the model's own; `APOZero` is for those that are better.

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
        Contrastive Revisions: Addressing Underspecification in Alignment", arXiv:2408.06266, equation 8, plus 1.

    Example:
        >>> import torch
        >>> even = torch.tensor([[-1.0, -2.0]])
        >>> APODown()(even, even, even, even).item()
        1.0
    """

    status = "paper"
    evidence = "values and gradients of huggingface/trl, not the authors' code"

    def pairs(self, given: PreferencePairs) -> Float[Tensor, " pairs"]:
        """The value of each pair."""
        return (self.beta * given.chosen_log_ratios).sigmoid() + (-self.beta * given.margins).sigmoid()
