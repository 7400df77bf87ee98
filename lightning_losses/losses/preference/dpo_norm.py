"""Length-normalised DPO: the mean log ratio of a completion's tokens in the place of their sum."""

from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.preference.preference_loss import DirectPreferenceLoss, PreferencePairs
from lightning_losses.numerics.probabilities import softplus


class DPONorm(DirectPreferenceLoss):
    """Length-normalised DPO: the mean log ratio of a completion's tokens in the place of their sum.

    ``-log σ(β Δ)`` with ``Δ = (1/|y_w|) log p(y_w)/p_ref(y_w) - (1/|y_l|) log p(y_l)/p_ref(y_l)``, so that a long
    completion's reward isn't large for its length alone.

    Args:
        beta: β, above 0; means are smaller than sums, and the paper's value is 5.

    Shapes:
        chosen_logps, ref_chosen_logps, chosen_mask (optional), chosen_log_collisions (with `weighting`): [B, T], of
        tokens; those of the rejected: [B, S].

    Returns:
        A scalar, or [B] without reduction; log 2 a pair where policy and reference agree.

    Raises:
        ValueError: shapes or dtypes that do not fit; settings out of range; `weighting` without log collisions.

    Source:
        Lambert, Morrison, Pyatkin, and others, 2024, "Tulu 3: Pushing Frontiers in Open Language Model Post-Training",
        arXiv:2411.15124. The default of β is the family's, as in TRL.

    Example:
        >>> import torch
        >>> even = torch.tensor([[-1.0, -2.0]])
        >>> round(DPONorm()(even, even, even, even).item(), 4)  # log 2
        0.6931
    """

    status = "paper"
    evidence = "values and gradients of huggingface/trl, not the authors' code"

    def pairs(self, given: PreferencePairs) -> Float[Tensor, " pairs"]:
        """The value of each pair."""
        return softplus(self.beta * (given.rejected_mean_log_ratios - given.chosen_mean_log_ratios))
