"""Contrastive preference optimization: preferences without a reference, and the chosen completion's likelihood."""

from typing import Annotated, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.preference.preference_loss import PreferencePairs, ReferenceFreePreferenceLoss
from lightning_losses.numerics.probabilities import softplus
from lightning_losses.numerics.settings import Bound, Positive, Weight


class CPO(ReferenceFreePreferenceLoss):
    """Contrastive preference optimization: preferences without a reference, and the chosen completion's likelihood.

    ``-(1 - ε) log σ(β Δ) - ε log σ(-β Δ) - λ (1/|y_w|) log p(y_w)`` with ``Δ = log p(y_w) - log p(y_l)`` of whole
    completions. With "hinge" the first two are ``max(0, 1 - β Δ)``, with "ipo" ``(Δ - 1 / (2 β))^2`` with Δ of the mean
    log-probabilities of tokens.

    Args:
        beta: β, above 0.
        label_smoothing: ε of "sigmoid", at least 0 and below 0.5.
        link: what a pair's Δ goes through: "sigmoid", "hinge" or "ipo".
        nll_weight: λ, at least 0.

    Shapes:
        chosen_logps, chosen_mask (optional): [B, T], of tokens; those of the rejected: [B, S].

    Returns:
        A scalar, or [B] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; settings out of range.

    Source:
        Xu, Sharaf, Chen, Tan, Shen, Van Durme, Murray, Kim, 2024, "Contrastive Preference Optimization: Pushing the
        Boundaries of LLM Performance in Machine Translation", arXiv:2401.08417. The paper's likelihood is of the whole
        completion. TRL and Liger average it over all chosen tokens of the batch, which is ``nll_weight=0`` beside a
        term of `CompletionNLL`; here it is each completion's mean, so that a pair's value is its own.

    Example:
        >>> even = torch.tensor([[-1.0, -2.0]])
        >>> round(CPO()(even, even).item(), 4)  # log 2 + 1.5
        2.1931
    """

    status = "paper"
    evidence = "values and gradients of huggingface/trl, not the authors' code"

    beta: Positive = 0.1
    label_smoothing: Annotated[float, Bound(least=0, below=0.5)] = 0.0
    link: Literal["sigmoid", "hinge", "ipo"] = "sigmoid"
    nll_weight: Weight = 1.0

    def pairs(self, given: PreferencePairs) -> Float[Tensor, " pairs"]:
        """The value of each pair."""
        return self._preferences(given) - self.nll_weight * given.chosen_means

    def _preferences(self, given: PreferencePairs) -> Float[Tensor, " pairs"]:
        if self.link == "ipo":
            return (given.chosen_means - given.rejected_means - 1 / (2 * self.beta)).square()
        logits = self.beta * (given.chosen_sums - given.rejected_sums)
        if self.link == "hinge":
            return torch.relu(1 - logits)
        return (1 - self.label_smoothing) * softplus(-logits) + self.label_smoothing * softplus(logits)
