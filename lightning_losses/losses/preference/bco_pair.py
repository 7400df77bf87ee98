"""Binary classifier optimization of pairs: the log ratio tells chosen from rejected completions, each by itself."""

from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.preference.preference_loss import DirectPreferenceLoss, PreferencePairs
from lightning_losses.numerics.probabilities import softplus


class BCOPair(DirectPreferenceLoss):
    """Binary classifier optimization of pairs: the log ratio tells chosen from rejected completions, each by itself.

    ``-log σ(β r_w) - log σ(-β r_l)`` with ``r = log p(y)/p_ref(y)`` of whole completions. It is an upper bound of DPO's
    loss, and asks for chosen completions above the reference and rejected ones below it, not for their difference.

    Args:
        beta: β, above 0; the smaller, the further the policy may go.

    Shapes:
        chosen_logps, ref_chosen_logps, chosen_mask (optional), chosen_log_collisions (with `weighting`): [B, T], of
        tokens; those of the rejected: [B, S].

    Returns:
        A scalar, or [B] without reduction; 2 log 2 a pair where policy and reference agree.

    Raises:
        ValueError: shapes or dtypes that do not fit; settings out of range; `weighting` without log collisions.

    Source:
        Jung, Han, Nam, On, 2024, "Binary Classifier Optimization for Large Language Model Alignment",
        arXiv:2404.04656, for pairs and without the moving average of rewards that the paper subtracts, as TRL's
        bco_pair.

    Example:
        >>> import torch
        >>> even = torch.tensor([[-1.0, -2.0]])
        >>> round(BCOPair()(even, even, even, even).item(), 4)  # 2 log 2
        1.3863
    """

    status = "paper"
    evidence = "values and gradients of huggingface/trl, not the authors' code"

    def pairs(self, given: PreferencePairs) -> Float[Tensor, " pairs"]:
        """The value of each pair."""
        return softplus(-self.beta * given.chosen_log_ratios) + softplus(self.beta * given.rejected_log_ratios)
