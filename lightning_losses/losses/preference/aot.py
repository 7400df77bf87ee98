"""Alignment by optimal transport: the whole distribution of rewards moves up, not each pair's."""

from typing import Annotated

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lightning_losses.losses.preference.preference_loss import DirectPreferenceLoss, PreferencePairs
from lightning_losses.numerics.probabilities import softplus
from lightning_losses.numerics.settings import Bound


class AOT(DirectPreferenceLoss):
    """Alignment by optimal transport: the whole distribution of rewards moves up, not each pair's.

    ``-(1 - ε) log σ(β Δ) - ε log σ(-β Δ)`` with Δ the difference of two quantiles of one level over the batch: of
    ``log p(y_w) - log p(y_l)`` under the policy, and of the same under the reference; unpaired of the log ratios of
    the chosen completions, and of those of the rejected ones. So the first distribution shall lie above the second one
    throughout. A value belongs to the pair that has the first quantile.

    Args:
        beta: β, above 0; the smaller, the further the policy may go.
        paired: whether the distributions are of the margins of pairs, or of the two completions by themselves.
        label_smoothing: ε, at least 0 and below 0.5.

    Shapes:
        chosen_logps, ref_chosen_logps, chosen_mask (optional), chosen_log_collisions (with `weighting`): [B, T], of
        tokens; those of the rejected: [B, S].

    Returns:
        A scalar, or [B] without reduction; of one pair DPO's value.

    Raises:
        ValueError: shapes or dtypes that do not fit; settings out of range; `weighting` without log collisions.

    Source:
        Melnyk, Mroueh, Belgodere, Rigotti, Nitsure, Yurochkin, Greenewald, Navratil, Ross, 2024, "Distributional
        Preference Alignment of LLMs via Optimal Transport", arXiv:2406.05882. With weights of pairs TRL gives the
        quantile of rank i the weight of pair i, whichever has it; here it has its own pair's.

    Example:
        >>> high, low = torch.tensor([[-1.0], [-2.0]]), torch.tensor([[-2.0], [-3.0]])
        >>> round(AOT()(high, low, high.flip(0), low.flip(0)).item(), 4)  # the same margins: log 2
        0.6931
    """

    batch_coupled = True
    status = "paper"
    evidence = "values and gradients of huggingface/trl, not the authors' code"

    paired: bool = True
    label_smoothing: Annotated[float, Bound(least=0, below=0.5)] = 0.0

    def pairs(self, given: PreferencePairs) -> Float[Tensor, " pairs"]:
        """The value of each pair."""
        upper, lower = given.chosen_log_ratios, given.rejected_log_ratios
        if self.paired:
            upper = given.chosen_sums - given.rejected_sums
            lower = upper - given.margins
        logits = self.beta * (upper - _of_same_rank(lower, upper, given.kept))
        return (1 - self.label_smoothing) * softplus(-logits) + self.label_smoothing * softplus(logits)


def _of_same_rank(
    values: Float[Tensor, " pairs"], others: Float[Tensor, " pairs"], kept: Bool[Tensor, " pairs"]
) -> Float[Tensor, " pairs"]:
    """For each entry of `others` the entry of `values` that has its rank, among those that are kept."""
    order, of_others = (each.detach().masked_fill(~kept, torch.inf).argsort(stable=True) for each in (values, others))
    return values.gather(0, order.gather(0, of_others.argsort()))
