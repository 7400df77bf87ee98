"""The kind of policy-gradient losses that clip ratios."""

import math
from abc import abstractmethod
from dataclasses import field
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lightning_losses.losses.policy_gradient.policy_gradient_loss import PolicyGradientLoss, PolicyTokens, mean_where
from lightning_losses.numerics.settings import NonNegative, Share


class Ratios(NamedTuple):
    """Logarithms of ratios of tokens, or of completions, with their advantages and which of them count."""

    logarithms: Float[Tensor, "..."]
    advantages: Float[Tensor, "..."]
    kept: Bool[Tensor, "..."]


class ClippedPolicyLoss(PolicyGradientLoss):
    """A policy-gradient loss that goes no further where a ratio has left a range towards which its advantage points.

    ``-min(r A, clip(r, 1 - ε_low, 1 + ε_high) A)``. The gradient is 0 where A > 0 and r is above the range, or A < 0
    and r below it.

    Args:
        epsilon_low: how far below 1 the range begins, from 0 to 1.
        epsilon_high: how far above 1 it ends, at least 0; None: as `epsilon_low`.
    """

    epsilon_low: Share = field(default=0.2, kw_only=True)
    epsilon_high: NonNegative | None = field(default=None, kw_only=True)

    @abstractmethod
    def ratios(self, given: PolicyTokens) -> Ratios:
        """The ratios that are clipped: of the tokens, or of the completions."""

    def log_range(self) -> tuple[float, float]:
        """The logarithms of the range's ends."""
        high = self.epsilon_low if self.epsilon_high is None else self.epsilon_high
        return (math.log1p(-self.epsilon_low) if self.epsilon_low < 1 else -math.inf), math.log1p(high)

    def surrogate(self, ratios: Ratios, cap: float = math.inf, cap_below_0: float = math.inf) -> Float[Tensor, "..."]:
        """``-min(r A, clip(r) A)`` of each ratio.

        Args:
            ratios: whose.
            cap: the largest logarithm where A > 0; beyond it the gradient is 0.
            cap_below_0: the same where A < 0.
        """
        low, high = self.log_range()
        # In logarithms the branch that is left out is never exponentiated, so that it can't overflow.
        better = ratios.logarithms.clamp(max=min(high, cap))
        worse = ratios.logarithms.clamp(max=cap_below_0).clamp(min=low)
        return -ratios.advantages * torch.where(ratios.advantages > 0, better, worse).exp()

    def policy(self, given: PolicyTokens) -> Float[Tensor, "batch tokens"]:
        """What each token costs; the value of a completion stands at each of its tokens."""
        value = self.surrogate(self.ratios(given))
        return value if value.ndim == 2 else value.unsqueeze(1).expand_as(given.kept)

    def clip_fractions(self, given: PolicyTokens) -> dict[str, Float[Tensor, ""]]:
        """The shares that are clipped."""
        low, high = self.log_range()
        ratios = self.ratios(given)
        below = (ratios.logarithms < low) & (ratios.advantages < 0)
        above = (ratios.logarithms > high) & (ratios.advantages > 0)
        shares = {"clip_low": below, "clip_high": above, "clip_region": below | above}
        return {key: mean_where(share.to(given.logps), ratios.kept) for key, share in shares.items()}
