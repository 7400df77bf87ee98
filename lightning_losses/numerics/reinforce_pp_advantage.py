"""REINFORCE++'s advantages: returns of tokens over the statistics of the whole batch, without a critic."""

from typing import NamedTuple

from jaxtyping import Float, Int, Shaped
from torch import Tensor

from lightning_losses.numerics.checks import check_floating, check_number
from lightning_losses.numerics.group_advantage import Singleton, group_advantage
from lightning_losses.numerics.probabilities import full_precision
from lightning_losses.numerics.token_returns import backward_recursion, whiten
from lightning_losses.numerics.token_sequences import token_mask


class Advantages(NamedTuple):
    """Advantages of tokens, and their returns."""

    advantages: Float[Tensor, "batch tokens"]
    returns: Float[Tensor, "batch tokens"]


def reinforce_pp_advantage(
    token_rewards: Float[Tensor, "batch tokens"],
    completion_mask: Shaped[Tensor, "batch tokens"] | None = None,
    *,
    gamma: float = 1.0,
    unbiased: bool = True,
    eps: float = 1e-8,
) -> Advantages:
    """REINFORCE++'s advantages: what rewards are still to come, less their mean over all tokens of the batch, scaled.

    ``G_t = ρ_t + γ G_{t+1}``, begun anew behind a token that doesn't count; then over all tokens that count
    ``(G - mean) / sqrt(var + eps)``. Long completions rule the mean: that over completions is not 0. Give the tokens of
    all processes for the batch's statistics.

    Args:
        token_rewards: [B, T] ρ, such as `kl_shaped_reward` makes them.
        completion_mask: [B, T] other than 0 for a token that counts; None: all.
        gamma: γ, from 0 to 1.
        unbiased: whether the variance divides by one less than the count, as in verl; OpenRLHF divides by the count.
        eps: is added to the variance.

    Returns:
        Advantages and returns, 0 where a token doesn't count, without gradient. All are 0 if all returns are equal.

    Raises:
        ValueError: shapes or dtypes that do not fit; a γ out of range.

    Source:
        Hu, Liu, Xu, Shen, 2025, "REINFORCE++: Stabilizing Critic-Free Policy Optimization with Global Advantage
        Normalization", arXiv:2501.03262. OpenRLHF holds the variance above 1e-8 and doesn't zero the padding; verl
        refuses a single token.

    Example:
        >>> import torch
        >>> reinforce_pp_advantage(torch.tensor([[0.0, 1.0], [0.0, 0.0]])).returns
        tensor([[1., 1.],
                [0., 0.]])
    """
    check_floating("reinforce_pp_advantage", "token_rewards", token_rewards)
    check_number("reinforce_pp_advantage", "gamma", gamma, least=0, most=1)
    kept = token_mask("reinforce_pp_advantage", "token_rewards", token_rewards, completion_mask)
    rewards = full_precision(token_rewards.detach()).masked_fill(~kept, 0.0)
    # What does not count passes nothing on to the token before it.
    returns = backward_recursion(rewards, gamma * kept.to(rewards))
    return Advantages(whiten(returns, kept, unbiased=unbiased, eps=eps).masked_fill(~kept, 0.0), returns)


def reinforce_pp_baseline_advantage(
    rewards: Float[Tensor, " batch"],
    completion_mask: Shaped[Tensor, "batch tokens"],
    *,
    group_size: int | None = None,
    index: Int[Tensor, " batch"] | None = None,
    singleton: Singleton = "raw",
    eps: float = 1e-8,
) -> Float[Tensor, "batch tokens"]:
    """REINFORCE++'s advantages with a baseline: rewards less their group's mean, scaled over the batch's tokens.

    Args:
        rewards: [B] of completions; NaN as in `group_advantage`.
        completion_mask: [B, T] other than 0 for a token that counts.
        group_size: the rows of a prompt's completions, one after the other; or
        index: [B] a whole number of each row's prompt.
        singleton: what a completion gets that is alone in its group: its "raw" reward, as in verl, or "zero".
        eps: is added to the variance.

    Returns:
        [B, T] advantages, 0 where a token doesn't count.

    Raises:
        ValueError: groups or shapes that do not fit; infinite rewards, where they are on the CPU.

    Source:
        As `reinforce_pp_advantage`.

    Example:
        >>> import torch
        >>> mask = torch.tensor([[1, 1], [1, 1]])
        >>> reinforce_pp_baseline_advantage(torch.tensor([1.0, 0.0]), mask, group_size=2)
        tensor([[ 0.8660,  0.8660],
                [-0.8660, -0.8660]])
    """
    centred = group_advantage(rewards, group_size=group_size, index=index, scale="none", singleton=singleton)
    if completion_mask.ndim != 2 or len(completion_mask) != len(centred):
        raise ValueError(
            f"reinforce_pp_baseline_advantage: completion_mask of shape {list(completion_mask.shape)} came with "
            f"{len(centred)} rewards; give [batch, tokens]."
        )
    # A completion that can't be scored is in no statistic.
    kept = (completion_mask != 0) & ~rewards.isnan().unsqueeze(1)
    return whiten(centred.unsqueeze(1).expand(kept.shape), kept, eps=eps).masked_fill(~kept, 0.0)
