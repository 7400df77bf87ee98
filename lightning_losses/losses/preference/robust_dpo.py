"""Robust DPO: in expectation over labels that are flipped at a known rate, the loss of the right ones."""

from typing import Annotated

from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.preference.preference_loss import DirectPreferenceLoss, PreferencePairs
from lightning_losses.numerics.probabilities import softplus
from lightning_losses.numerics.settings import Bound


class RobustDPO(DirectPreferenceLoss):
    """Robust DPO: in expectation over labels that are flipped at a known rate, the loss of the right ones.

    ``(-(1 - ε) log σ(β Δ) + ε log σ(-β Δ)) / (1 - 2 ε)`` with Δ the difference of the log ratios of policy and
    reference. Where a share ε of the pairs came the wrong way round, its expectation is DPO's loss of the right ones.
    It may be below 0 and has no minimum for ε above 0: a pair's gradient doesn't vanish.

    Args:
        beta: β, above 0; the smaller, the further the policy may go.
        label_smoothing: ε, at least 0 and below 0.5: the rate of flipped labels; 0 is DPO.

    Shapes:
        chosen_logps, ref_chosen_logps, chosen_mask (optional), chosen_log_collisions (with `weighting`): [B, T], of
        tokens; those of the rejected: [B, S].

    Returns:
        A scalar, or [B] without reduction; log 2 a pair where policy and reference agree.

    Raises:
        ValueError: shapes or dtypes that do not fit; settings out of range; `weighting` without log collisions.

    Source:
        Chowdhury, Kini, Natarajan, 2024, "Provably Robust DPO: Aligning Language Models with Noisy Feedback",
        arXiv:2403.00409.

    Example:
        >>> import torch
        >>> even = torch.tensor([[-1.0, -2.0]])
        >>> round(RobustDPO()(even, even, even, even).item(), 4)  # log 2
        0.6931
    """

    status = "paper"
    evidence = "values and gradients of huggingface/trl, not the authors' code"

    label_smoothing: Annotated[float, Bound(least=0, below=0.5)] = 0.1

    def pairs(self, given: PreferencePairs) -> Float[Tensor, " pairs"]:
        """The value of each pair."""
        logits, rate = self.beta * given.margins, self.label_smoothing
        return ((1 - rate) * softplus(-logits) - rate * softplus(logits)) / (1 - 2 * rate)
