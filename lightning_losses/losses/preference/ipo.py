"""Identity preference optimization: a pair's log ratios shall differ by a given amount, and no more."""

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.preference.preference_loss import DirectPreferenceLoss, PreferencePairs


class IPO(DirectPreferenceLoss):
    """Identity preference optimization: a pair's log ratios shall differ by a given amount, and no more.

    ``(Δ - 1 / (2 β))^2`` with ``Δ = log p(y_w)/p_ref(y_w) - log p(y_l)/p_ref(y_l)``. Unlike DPO's, the policy of least
    loss stays near the reference where one completion is always preferred.

    Args:
        beta: β, above 0, the paper's τ: how strongly the policy is held to its reference.
        over: what Δ is of: "mean" log ratios of a completion's tokens, or their "sum", the completion's own.

    Shapes:
        chosen_logps, ref_chosen_logps, chosen_mask (optional), chosen_log_collisions (with `weighting`): [B, T], of
        tokens; those of the rejected: [B, S].

    Returns:
        A scalar, or [B] without reduction; 1 / (4 β^2) a pair where policy and reference agree.

    Raises:
        ValueError: shapes or dtypes that do not fit; settings out of range; `weighting` without log collisions.

    Source:
        Azar, Rowland, Piot, Guo, Calandriello, Valko, Munos, 2023, "A General Theoretical Paradigm to Understand
        Learning from Human Preferences", arXiv:2310.12036, equation 17. It is written for whole completions; TRL
        averages over tokens, which is the default here, and reports that the authors' experiments did so.

    Example:
        >>> import torch
        >>> even = torch.tensor([[-1.0, -2.0]])
        >>> round(IPO(beta=0.5)(even, even, even, even).item(), 4)
        1.0
    """

    status = "paper"
    evidence = "values and gradients of huggingface/trl, not the authors' code"

    over: Literal["mean", "sum"] = "mean"

    def pairs(self, given: PreferencePairs) -> Float[Tensor, " pairs"]:
        """The value of each pair."""
        means = given.chosen_mean_log_ratios - given.rejected_mean_log_ratios
        margins = means if self.over == "mean" else given.margins
        return (margins - 1 / (2 * self.beta)).square()
