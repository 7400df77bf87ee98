"""The hinge of SLiC on the log ratios of policy and reference: pairs that are apart far enough teach nothing."""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.preference.preference_loss import DirectPreferenceLoss, PreferencePairs


class HingeDPO(DirectPreferenceLoss):
    """The hinge of SLiC on the log ratios of policy and reference: pairs that are apart far enough teach nothing.

    ``max(0, 1 - β Δ)`` with ``Δ = log p(y_w)/p_ref(y_w) - log p(y_l)/p_ref(y_l)`` of whole completions.

    Args:
        beta: β, above 0: a pair teaches until Δ is 1/β.

    Shapes:
        chosen_logps, ref_chosen_logps, chosen_mask (optional), chosen_log_collisions (with `weighting`): [B, T], of
        tokens; those of the rejected: [B, S].

    Returns:
        A scalar, or [B] without reduction; 1 a pair where policy and reference agree.

    Raises:
        ValueError: shapes or dtypes that do not fit; settings out of range; `weighting` without log collisions.

    Source:
        Zhao, Joshi, Liu, Khalman, Saleh, Liu, 2023, "SLiC-HF: Sequence Likelihood Calibration with Human Feedback",
        arXiv:2305.10425, without its reference; Liu, Zhao, Joshi, Khalman, Saleh, Liu, Liu, 2023, "Statistical
        Rejection Sampling Improves Preference Optimization", arXiv:2309.06657, whose "hinge-norm" it is.

    Example:
        >>> import torch
        >>> low, high = torch.tensor([[-3.0]]), torch.tensor([[-1.0]])
        >>> HingeDPO()(high, low, low, high).item(), HingeDPO()(low, high, high, low).item()  # Δ of 4 and -4
        (0.6000000238418579, 1.399999976158142)
    """

    status = "paper"
    evidence = "values and gradients of huggingface/trl, not the authors' code"

    def pairs(self, given: PreferencePairs) -> Float[Tensor, " pairs"]:
        """The value of each pair."""
        return torch.relu(1 - self.beta * given.margins)
