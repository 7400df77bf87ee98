"""Geometric-mean policy optimisation: the geometric mean of ratios that are clipped token by token."""

from dataclasses import field

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.policy_gradient.clipped_policy_loss import ClippedPolicyLoss, Ratios
from lightning_losses.losses.policy_gradient.completion_loss import Aggregation
from lightning_losses.losses.policy_gradient.policy_gradient_loss import PolicyTokens
from lightning_losses.numerics.settings import Share
from lightning_losses.numerics.token_sequences import token_mean


class GMPO(ClippedPolicyLoss):
    """Geometric-mean policy optimisation: the geometric mean of ratios that are clipped token by token.

    ``-A_i exp(mean_t c_it)``, where c is ``log r`` held below ε_high if A > 0, and above -ε_low if A < 0. A geometric
    mean feels single large ratios less than GRPO's arithmetic one, so that the range may be wider. The ends of the
    range are logarithms here: ε = 0.4 is for ratios from e^-0.4 to e^0.4.

    Args:
        epsilon_low: how far below 0 the range begins, from 0 to 1.
        aggregation: how tokens are averaged, by default "seq_mean"; see `CompletionLoss`.

    Shapes:
        logps: [B, T] log-probabilities of the tokens; advantages: [B]; old_logps, completion_mask, ref_logps,
        entropies, sampling_ratio (all optional): [B, T].

    Returns:
        A scalar; 0 without a token that counts.

    Raises:
        ValueError: shapes or dtypes that do not fit; advantages of tokens; a tensor that a setting needs and that did
            not come.

    Source:
        Zhao et al., 2025, "Geometric-Mean Policy Optimization", arXiv:2507.20673. verl averages over all completions,
        empty ones included (`count_empty`).

    Example:
        >>> logps, advantages = torch.tensor([[-1.0, -1.0]]), torch.tensor([1.0])
        >>> GMPO()(logps, advantages, torch.tensor([[-1.0, -2.0]]))  # e^0.2: the second is held at 0.4
        tensor(-1.2214)
    """

    status = "paper"
    evidence = "values and gradients of volcengine/verl, not the authors' code"

    epsilon_low: Share = field(default=0.4, kw_only=True)
    aggregation: Aggregation = field(default="seq_mean", kw_only=True)

    def log_range(self) -> tuple[float, float]:
        """The logarithms of the range's ends, which the settings are."""
        return -self.epsilon_low, self.epsilon_low if self.epsilon_high is None else self.epsilon_high

    def ratios(self, given: PolicyTokens) -> Ratios:
        """The ratio of each token."""
        each = self.of_completions(given).unsqueeze(1).expand_as(given.kept)
        return Ratios(self.clamped(given.log_ratios), each, given.kept)

    def policy(self, given: PolicyTokens) -> Float[Tensor, "batch tokens"]:
        """The value of each completion, at each of its tokens."""
        low, high = self.log_range()
        ratios = self.ratios(given)
        better, worse = ratios.logarithms.clamp(max=high), ratios.logarithms.clamp(min=low)
        mean = token_mean(torch.where(ratios.advantages > 0, better, worse), given.kept)
        return -ratios.advantages * mean.exp().unsqueeze(1)
