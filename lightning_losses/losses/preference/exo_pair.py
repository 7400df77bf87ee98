"""Exact optimization of pairs: the reverse divergence of the policy's preference from a smoothed label."""

import math
from typing import Annotated

from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.preference.preference_loss import DirectPreferenceLoss, PreferencePairs
from lightning_losses.numerics.probabilities import softplus
from lightning_losses.numerics.settings import Bound


class EXOPair(DirectPreferenceLoss):
    """Exact optimization of pairs: the reverse divergence of the policy's preference from a smoothed label.

    ``KL(q || (1 - ε, ε))`` with ``q = (σ(β Δ), σ(-β Δ))`` and Δ the difference of the log ratios of policy and
    reference. DPO with label smoothing has the forward divergence of the same two; this one seeks the mode.

    Args:
        beta: β, above 0; the smaller, the further the policy may go.
        label_smoothing: ε, above 0 and below 0.5: the probability that the rejected completion is the better one.

    Shapes:
        chosen_logps, ref_chosen_logps, chosen_mask (optional), chosen_log_collisions (with `weighting`): [B, T], of
        tokens; those of the rejected: [B, S].

    Returns:
        A scalar, or [B] without reduction; at least 0, and 0 where ``β Δ = log((1 - ε) / ε)``.

    Raises:
        ValueError: shapes or dtypes that do not fit; settings out of range; `weighting` without log collisions.

    Source:
        Ji, Lu, Niu, Ke, Wang, Zhu, Tang, Huang, 2024, "Towards Efficient Exact Optimization of Language Model
        Alignment", arXiv:2402.00856, equation 16 for two completions.

    Example:
        >>> import torch
        >>> even = torch.tensor([[-1.0, -2.0]])
        >>> round(EXOPair(label_smoothing=0.1)(even, even, even, even).item(), 4)  # -log 2 - ½ log 0.09
        0.5108
    """

    status = "paper"
    evidence = "values and gradients of huggingface/trl, not the authors' code"

    label_smoothing: Annotated[float, Bound(above=0, below=0.5)] = 1e-3

    def pairs(self, given: PreferencePairs) -> Float[Tensor, " pairs"]:
        """The value of each pair."""
        logits, rate = self.beta * given.margins, self.label_smoothing
        right = logits.sigmoid() * (-softplus(-logits) - math.log1p(-rate))
        return right + (-logits).sigmoid() * (-softplus(logits) - math.log(rate))
