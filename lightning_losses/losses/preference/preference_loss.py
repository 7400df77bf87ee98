"""The kinds of losses of preferences, by what they take.

Log-probabilities come for each token, [B, T], and a loss says itself whether it adds or averages them. A loss of these
kinds writes one method, `pairs`, with a value for each pair of completions.
"""

from abc import abstractmethod
from dataclasses import field
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.numerics.checks import check_floating
from lightning_losses.numerics.probabilities import full_precision
from lightning_losses.numerics.reduction import Reduction, reduce
from lightning_losses.numerics.settings import Positive, Share
from lightning_losses.numerics.token_sequences import Completions, completions, token_mask, token_mean


class PreferencePairs(NamedTuple):
    """Checked pairs of completions in full precision.

    A token that does not count is 0, and a log-probability of -inf is -100, a constant. A sum is over a completion's
    tokens, a mean divides it by their number; both are 0 without a token. Log ratios are ``log p - log p_ref``, or
    ``log p`` without a reference.

    Attributes:
        chosen: the chosen completions, token by token.
        rejected: the rejected ones.
        weights: [B] a constant weight of each pair; None if all count alike.
    """

    chosen: Completions
    rejected: Completions
    weights: Float[Tensor, " pairs"] | None = None

    @property
    def kept(self) -> Bool[Tensor, " pairs"]:
        """The pairs that count: both completions have a token."""
        return (self.chosen_lengths > 0) & (self.rejected_lengths > 0)

    @property
    def chosen_lengths(self) -> Int[Tensor, " pairs"]:
        """The number of tokens of each chosen completion."""
        return self.chosen.lengths

    @property
    def rejected_lengths(self) -> Int[Tensor, " pairs"]:
        """The number of tokens of each rejected completion."""
        return self.rejected.lengths

    @property
    def chosen_sums(self) -> Float[Tensor, " pairs"]:
        """The log-probability of each chosen completion."""
        return self.chosen.logps.sum(dim=1)

    @property
    def rejected_sums(self) -> Float[Tensor, " pairs"]:
        """The log-probability of each rejected completion."""
        return self.rejected.logps.sum(dim=1)

    @property
    def chosen_means(self) -> Float[Tensor, " pairs"]:
        """The mean log-probability of the tokens of each chosen completion."""
        return token_mean(self.chosen.logps, self.chosen.kept)

    @property
    def rejected_means(self) -> Float[Tensor, " pairs"]:
        """The mean log-probability of the tokens of each rejected completion."""
        return token_mean(self.rejected.logps, self.rejected.kept)

    @property
    def chosen_log_ratios(self) -> Float[Tensor, " pairs"]:
        """The log ratio of each chosen completion."""
        return self.chosen.log_ratios.sum(dim=1)

    @property
    def rejected_log_ratios(self) -> Float[Tensor, " pairs"]:
        """The log ratio of each rejected completion."""
        return self.rejected.log_ratios.sum(dim=1)

    @property
    def chosen_mean_log_ratios(self) -> Float[Tensor, " pairs"]:
        """The mean log ratio of the tokens of each chosen completion."""
        return token_mean(self.chosen.log_ratios, self.chosen.kept)

    @property
    def rejected_mean_log_ratios(self) -> Float[Tensor, " pairs"]:
        """The mean log ratio of the tokens of each rejected completion."""
        return token_mean(self.rejected.log_ratios, self.rejected.kept)

    @property
    def margins(self) -> Float[Tensor, " pairs"]:
        """By how much the log ratio of the chosen completion is above that of the rejected one."""
        return self.chosen_log_ratios - self.rejected_log_ratios


class PreferenceLoss(Loss):
    """A value for each pair of a chosen and a rejected completion.

    A loss with inputs of its own writes `forward` with `given` and `reduced`. A pair of which a completion has no token
    is left out: its value is 0, and the mean does not count it.

    Args:
        reduction: "mean" over the pairs that count, "sum", or "none".
    """

    reduction: Reduction = field(default="mean", kw_only=True)

    @abstractmethod
    def pairs(self, given: PreferencePairs) -> Float[Tensor, " pairs"]:
        """The value of each pair."""

    def given(
        self,
        chosen_logps: Float[Tensor, "pairs tokens"],
        rejected_logps: Float[Tensor, "pairs others"],
        chosen_mask: Shaped[Tensor, "pairs tokens"] | None = None,
        rejected_mask: Shaped[Tensor, "pairs others"] | None = None,
        ref_chosen_logps: Float[Tensor, "pairs tokens"] | None = None,
        ref_rejected_logps: Float[Tensor, "pairs others"] | None = None,
    ) -> PreferencePairs:
        """The checked argument of `pairs`."""
        chosen = completions(self._identifier, "chosen_logps", chosen_logps, chosen_mask, ref_chosen_logps)
        rejected = completions(self._identifier, "rejected_logps", rejected_logps, rejected_mask, ref_rejected_logps)
        if len(chosen.logps) != len(rejected.logps):
            raise ValueError(
                f"{self._identifier}: chosen_logps of {len(chosen.logps)} completions came with rejected_logps of "
                f"{len(rejected.logps)}; give one of each for every pair."
            )
        return PreferencePairs(chosen, rejected)

    def reduced(self, given: PreferencePairs) -> Float[Tensor, "..."]:
        """The loss of the checked pairs."""
        with torch.autocast(given.chosen.logps.device.type, enabled=False):
            values = self.pairs(given)
            if given.weights is not None:
                values = given.weights * values
            return reduce(values, self.reduction, given.kept)

    def denominator(self, **tensors: Tensor) -> Tensor:
        """What reduction "mean" divides by: the pairs both of whose completions have a token."""
        kept = [
            token_mask(self._identifier, f"{side}_logps", tensors[f"{side}_logps"], tensors.get(f"{side}_mask"))
            for side in ("chosen", "rejected")
        ]
        return (kept[0].any(dim=1) & kept[1].any(dim=1)).sum()


class ReferenceFreePreferenceLoss(PreferenceLoss):
    """A value for each pair from the policy's log-probabilities alone."""

    def forward(
        self,
        chosen_logps: Float[Tensor, "pairs tokens"],
        rejected_logps: Float[Tensor, "pairs others"],
        chosen_mask: Shaped[Tensor, "pairs tokens"] | None = None,
        rejected_mask: Shaped[Tensor, "pairs others"] | None = None,
    ) -> Float[Tensor, "..."]:
        """Check, evaluate and reduce; see the class."""
        return self.reduced(self.given(chosen_logps, rejected_logps, chosen_mask, rejected_mask))


class DirectPreferenceLoss(PreferenceLoss):
    """A value for each pair from the log-probabilities of a policy and of its reference.

    Args:
        beta: β, above 0: how strongly the policy is held to its reference.
        tail_weight: how much the tokens of the longer completion count, of policy and reference, beyond the length of
            the shorter one: 1 as much as the others, 0 not at all (Liu et al., 2024, "Length Desensitization in Direct
            Preference Optimization", arXiv:2409.06411, whose α it is).
        weighting: weigh each pair, without gradient, by the product over its completions of
            ``exp(mean_t (log p_t - log sum_v p_tv^2))``, so that what the policy itself would say counts most (Zhou et
            al., 2024, "WPO: Enhancing RLHF with Weighted Preference Optimization", arXiv:2406.11827); it needs the log
            collisions. The mean still divides by the number of pairs. Completions likelier than what the policy
            usually says weigh more than 1, as in the paper and TRL; the authors' code, wzhouad/WPO, stops at 1.
    """

    beta: Positive = 0.1
    tail_weight: Share = field(default=1.0, kw_only=True)
    weighting: bool = field(default=False, kw_only=True)

    def forward(
        self,
        chosen_logps: Float[Tensor, "pairs tokens"],
        rejected_logps: Float[Tensor, "pairs others"],
        ref_chosen_logps: Float[Tensor, "pairs tokens"],
        ref_rejected_logps: Float[Tensor, "pairs others"],
        chosen_mask: Shaped[Tensor, "pairs tokens"] | None = None,
        rejected_mask: Shaped[Tensor, "pairs others"] | None = None,
        chosen_log_collisions: Float[Tensor, "pairs tokens"] | None = None,
        rejected_log_collisions: Float[Tensor, "pairs others"] | None = None,
    ) -> Float[Tensor, "..."]:
        """Check, evaluate and reduce; see the class."""
        for name, reference in (("ref_chosen_logps", ref_chosen_logps), ("ref_rejected_logps", ref_rejected_logps)):
            check_floating(self._identifier, name, reference)
        given = self.given(
            chosen_logps, rejected_logps, chosen_mask, rejected_mask, ref_chosen_logps, ref_rejected_logps
        )
        weights = [
            self._likelihood("chosen", given.chosen, chosen_log_collisions),
            self._likelihood("rejected", given.rejected, rejected_log_collisions),
        ]
        if self.tail_weight != 1:
            shared = torch.minimum(given.chosen_lengths, given.rejected_lengths)
            given = PreferencePairs(
                self._desensitized(given.chosen, shared), self._desensitized(given.rejected, shared)
            )
        if weights[0] is not None and weights[1] is not None:
            given = given._replace(weights=(weights[0] + weights[1]).exp())
        return self.reduced(given)

    def _likelihood(
        self, side: str, own: Completions, log_collisions: Float[Tensor, "pairs tokens"] | None
    ) -> Float[Tensor, " pairs"] | None:
        """How likely the policy is to say a completion, as the mean over its tokens of WPO; None where none weighs."""
        name = f"{side}_log_collisions"
        if log_collisions is None:
            if self.weighting:
                raise ValueError(
                    f"{self._identifier}: weighting=True came without {name}; give log sum_v p_v^2 of each token, as "
                    "token_record(..., log_collisions=True) has it."
                )
            return None
        check_floating(self._identifier, name, log_collisions)
        if log_collisions.shape != own.logps.shape:
            raise ValueError(
                f"{self._identifier}: {name} of shape {list(log_collisions.shape)} came with {side}_logps of shape "
                f"{list(own.logps.shape)}; give one number for each token."
            )
        if not self.weighting:
            return None
        return token_mean(own.logps.detach() - full_precision(log_collisions.detach()), own.kept)

    def _desensitized(self, own: Completions, shared: Int[Tensor, " pairs"]) -> Completions:
        """The completions with the log-probabilities of tokens beyond the shared length times the tail's weight."""
        tail = own.kept.cumsum(dim=1) > shared.unsqueeze(1)
        weight = torch.ones_like(own.logps).masked_fill(tail, self.tail_weight)
        reference = None if own.reference is None else weight * own.reference
        return own._replace(logps=weight * own.logps, reference=reference)
