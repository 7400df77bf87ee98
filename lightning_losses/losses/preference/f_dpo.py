"""DPO by another divergence from the reference than the reverse Kullback-Leibler one."""

import math
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.preference.preference_loss import DirectPreferenceLoss, PreferencePairs
from lightning_losses.numerics.probabilities import softplus
from lightning_losses.numerics.settings import Bound

# exp(80) is a number in float32.
_LARGEST_EXPONENT = 80.0


class FDPO(DirectPreferenceLoss):
    """DPO by another divergence from the reference than the reverse Kullback-Leibler one.

    ``-log σ(β f'(u_w) - β f'(u_l))`` with ``u = p(y)/p_ref(y)`` of whole completions and f' the derivative of the
    divergence's generator, up to a constant: ``log u`` for "reverse_kl", which is DPO; ``-1/u`` for "forward_kl";
    ``log(2 u / (1 + u))`` for "js"; ``-u^-α / α`` for "alpha", between both divergences of Kullback and Leibler. The
    others than the reverse one keep more of the reference's diversity.

    Args:
        beta: β, above 0; the smaller, the further the policy may go.
        divergence: whose f' it is.
        alpha: α of "alpha", above 0 and below 1; near 0 it is "reverse_kl", at 1 it would be "forward_kl". TRL's
            coefficient is 1 - α.

    Shapes:
        chosen_logps, ref_chosen_logps, chosen_mask (optional), chosen_log_collisions (with `weighting`): [B, T], of
        tokens; those of the rejected: [B, S].

    Returns:
        A scalar, or [B] without reduction; log 2 a pair where policy and reference agree.

    Raises:
        ValueError: shapes or dtypes that do not fit; settings out of range; `weighting` without log collisions.

    Source:
        Wang, Jiang, Yang, Liu, Chen, 2023, "Beyond Reverse KL: Generalizing Direct Preference Optimization with Diverse
        Divergence Constraints", arXiv:2309.16240. Powers of u are held at e^80, as TRL's.

    Example:
        >>> even, low = torch.tensor([[-1.0]]), torch.tensor([[-2.0]])
        >>> round(FDPO(beta=1.0)(even, low, even, even).item(), 4)  # log(1 + exp(1 - e))
        0.165
    """

    status = "confirmed"
    evidence = "alecwangcq/f-divergence-dpo, and huggingface/trl for its own alpha"

    divergence: Literal["reverse_kl", "forward_kl", "js", "alpha"] = "forward_kl"
    alpha: Annotated[float, Bound(above=0, below=1)] = 0.5

    def pairs(self, given: PreferencePairs) -> Float[Tensor, " pairs"]:
        """The value of each pair."""
        chosen, rejected = self.rewards(given.chosen_log_ratios), self.rewards(given.rejected_log_ratios)
        return softplus(self.beta * (rejected - chosen))

    def rewards(self, log_ratios: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """f' at ``u = exp(log_ratios)``, 0 at u = 1; β times it is a completion's reward."""
        if self.divergence == "reverse_kl":
            return log_ratios
        if self.divergence == "js":
            return math.log(2) - softplus(-log_ratios)
        power = 1.0 if self.divergence == "forward_kl" else self.alpha
        return -torch.expm1((-power * log_ratios).clamp(max=_LARGEST_EXPONENT)) / power
