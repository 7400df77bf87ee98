"""Direct preference optimization: the log ratios of policy and reference as rewards of a Bradley-Terry model."""

from typing import Annotated

from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.preference.preference_loss import DirectPreferenceLoss, PreferencePairs
from lightning_losses.numerics.probabilities import softplus
from lightning_losses.numerics.settings import Bound


class DPO(DirectPreferenceLoss):
    """Direct preference optimization: the log ratios of policy and reference as rewards of a Bradley-Terry model.

    ``-(1 - ε) log σ(β Δ) - ε log σ(-β Δ)`` with ``Δ = log p(y_w)/p_ref(y_w) - log p(y_l)/p_ref(y_l)`` of whole
    completions, chosen and rejected. The policy of least loss is ``p_ref exp(r / β)``, normalised, where preferences
    are those of a Bradley-Terry model with the rewards r.

    Args:
        beta: β, above 0; the smaller, the further the policy may go.
        label_smoothing: ε, at least 0 and below 0.5: the share of pairs that are taken to be labelled the wrong way
            round (conservative DPO).

    Shapes:
        chosen_logps, ref_chosen_logps, chosen_mask (optional), chosen_log_collisions (with `weighting`): [B, T], of
        tokens; those of the rejected: [B, S].

    Returns:
        A scalar, or [B] without reduction; log 2 a pair where policy and reference agree.

    Raises:
        ValueError: shapes or dtypes that do not fit; settings out of range; `weighting` without log collisions.

    Source:
        Rafailov, Sharma, Mitchell, Ermon, Manning, Finn, 2023, "Direct Preference Optimization: Your Language Model is
        Secretly a Reward Model", arXiv:2305.18290. Label smoothing: Mitchell, 2023, "A note on DPO with noisy
        preferences & relationship to IPO".

    Example:
        >>> import torch
        >>> even = torch.tensor([[-1.0, -2.0]])
        >>> round(DPO()(even, even, even, even).item(), 4)  # log 2
        0.6931
    """

    status = "paper"
    evidence = "values and gradients of huggingface/trl, not the authors' code"

    label_smoothing: Annotated[float, Bound(least=0, below=0.5)] = 0.0

    def pairs(self, given: PreferencePairs) -> Float[Tensor, " pairs"]:
        """The value of each pair."""
        logits = self.beta * given.margins
        return (1 - self.label_smoothing) * softplus(-logits) + self.label_smoothing * softplus(logits)
