"""Noise contrastive alignment of pairs: chosen completions become likelier, and neither strays from the reference."""

from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.preference.preference_loss import DirectPreferenceLoss, PreferencePairs
from lightning_losses.numerics.probabilities import softplus


class NCAPair(DirectPreferenceLoss):
    """Noise contrastive alignment of pairs: chosen completions become likelier, and neither strays from the reference.

    ``-log σ(β r_w) - ½ log σ(-β r_w) - ½ log σ(-β r_l)`` with ``r = log p(y)/p_ref(y)`` of whole completions. Where DPO
    looks at the difference of both alone, and may let both become unlikely, each is held here by itself.

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
        Chen, He, Yuan, Cui, Su, Zhu, 2024, "Noise Contrastive Alignment of Language Models with Explicit Rewards",
        arXiv:2402.05369, for two completions and preferences.

    Example:
        >>> import torch
        >>> even = torch.tensor([[-1.0, -2.0]])
        >>> round(NCAPair()(even, even, even, even).item(), 4)  # 2 log 2
        1.3863
    """

    status = "paper"
    evidence = "values and gradients of huggingface/trl, not the authors' code"

    def pairs(self, given: PreferencePairs) -> Float[Tensor, " pairs"]:
        """The value of each pair."""
        chosen, rejected = self.beta * given.chosen_log_ratios, self.beta * given.rejected_log_ratios
        return softplus(-chosen) + 0.5 * softplus(chosen) + 0.5 * softplus(rejected)
