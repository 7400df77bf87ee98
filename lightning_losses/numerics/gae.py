"""Generalised advantage estimation, and the rewards of tokens that it is fed."""

from typing import Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.numerics.checks import check_choice, check_floating, check_number
from lightning_losses.numerics.groups import wide_rewards
from lightning_losses.numerics.probabilities import full_precision
from lightning_losses.numerics.reinforce_pp_advantage import Advantages
from lightning_losses.numerics.token_returns import backward_recursion, whiten
from lightning_losses.numerics.token_sequences import token_mask


def gae(
    token_rewards: Float[Tensor, "batch tokens"],
    values: Float[Tensor, "batch tokens"],
    completion_mask: Shaped[Tensor, "batch tokens"] | None = None,
    *,
    gamma: float = 1.0,
    lam: float = 0.95,
    masked: Literal["zero", "skip"] = "zero",
    whitened: bool = False,
) -> Advantages:
    """Generalised advantage estimation: sums of a critic's errors to come, between one step and all of them.

    ``δ_t = ρ_t + γ V_{t+1} - V_t`` and ``A_t = δ_t + γ λ A_{t+1}``, nothing being behind the last token: a completion
    that was cut is taken for one that ended. With λ = 1 that is the return less V; with λ = 0 the error of one step.

    Args:
        token_rewards: [B, T] ρ.
        values: [B, T] V of a critic, before the update.
        completion_mask: [B, T] other than 0 for a token that counts; None: all.
        gamma: γ, from 0 to 1.
        lam: λ, from 0 to 1.
        masked: tokens that don't count have a ρ and a V of 0 ("zero", OpenRLHF and TRL), or are passed over, so that
            the token after them follows the one before ("skip", verl): for text of tools within a completion.
        whitened: give the advantages mean 0 and variance 1 over the tokens that count; the returns stay.

    Returns:
        Advantages, and returns ``A + V``, without gradient. Where a token doesn't count, neither means anything.

    Raises:
        ValueError: shapes or dtypes that do not fit; a γ or λ out of range.

    Source:
        Schulman, Moritz, Levine, Jordan, Abbeel, 2016, "High-Dimensional Continuous Control Using Generalized Advantage
        Estimation", arXiv:1506.02438. TRL and verl whiten within the batch at hand; OpenRLHF over all of a step, by the
        variance that divides by the count.

    Example:
        >>> gae(torch.tensor([[0.0, 1.0]]), torch.tensor([[0.5, 0.5]]), lam=1.0)
        Advantages(advantages=tensor([[0.5000, 0.5000]]), returns=tensor([[1., 1.]]))
    """
    check_choice("gae", "masked", masked, ("zero", "skip"))
    check_number("gae", "gamma", gamma, least=0, most=1)
    check_number("gae", "lam", lam, least=0, most=1)
    for name, tensor in (("token_rewards", token_rewards), ("values", values)):
        check_floating("gae", name, tensor)
        if tensor.ndim != 2 or tensor.shape != token_rewards.shape:
            raise ValueError(
                f"gae: {name} of shape {list(tensor.shape)} came with token_rewards of shape "
                f"{list(token_rewards.shape)}; give both as [batch, tokens]."
            )
    kept = token_mask("gae", "token_rewards", token_rewards, completion_mask)
    rewards, known = (full_precision(t.detach()).masked_fill(~kept, 0.0) for t in (token_rewards, values))
    pass_on = (~kept).to(known) if masked == "skip" else torch.zeros_like(known)
    # The value behind each token: the next one's, or the next one's that counts.
    behind = torch.nn.functional.pad(backward_recursion(known, pass_on)[:, 1:], (0, 1))
    errors = rewards + gamma * behind - known
    if masked == "skip":
        errors = errors.masked_fill(~kept, 0.0)
        advantages = backward_recursion(errors, pass_on + gamma * lam * kept.to(known))
        returns = advantages + full_precision(values.detach())
    else:
        advantages = backward_recursion(errors, torch.full_like(known, gamma * lam))
        returns = advantages + known
    return Advantages(whiten(advantages, kept) if whitened else advantages, returns)


def kl_shaped_reward(
    scores: Float[Tensor, " batch"],
    kl: Float[Tensor, "batch tokens"],
    completion_mask: Shaped[Tensor, "batch tokens"] | None = None,
    *,
    kl_coef: float = 0.05,
    score_clip: tuple[float, float] | None = None,
    place: Literal["last", "after"] = "last",
) -> Float[Tensor, "batch tokens"]:
    """Rewards of tokens: less for each one's KL to a reference, and the completion's score at its end.

    Args:
        scores: [B] of completions.
        kl: [B, T] estimates for each token, of `kl_estimate`: k1, or k3.
        completion_mask: [B, T] other than 0 for a token that counts; None: all. A completion without any has no score.
        kl_coef: weight of the KL, at least 0.
        score_clip: scores are held within these two numbers.
        place: the score stands at the "last" token (OpenRLHF), or one "after" it where the batch is wide enough (TRL);
            what reads it then, such as `gae`, needs a mask that is one token longer.

    Returns:
        [B, T] rewards, without gradient, 0 where a token doesn't count, but for a score "after" the last.

    Raises:
        ValueError: shapes, dtypes or a clip that do not fit; a weight below 0; infinite scores that are not clipped,
            where they are on the CPU.

    Source:
        Ziegler et al., 2019, "Fine-Tuning Language Models from Human Preferences", arXiv:1909.08593. OpenRLHF leaves
        the KL of the padding in.

    Example:
        >>> kl_shaped_reward(torch.tensor([1.0]), torch.tensor([[0.5, 0.5, 9.0]]), torch.tensor([[1, 1, 0]]))
        tensor([[-0.0250,  0.9750,  0.0000]])
    """
    check_choice("kl_shaped_reward", "place", place, ("last", "after"))
    check_number("kl_shaped_reward", "kl_coef", kl_coef, least=0)
    check_floating("kl_shaped_reward", "kl", kl)
    kept = token_mask("kl_shaped_reward", "kl", kl, completion_mask)
    score = wide_rewards("kl_shaped_reward", scores, score_clip)
    if kl.ndim != 2 or score.shape != kl.shape[:1]:
        raise ValueError(
            f"kl_shaped_reward: scores of shape {list(score.shape)} came with kl of shape {list(kl.shape)}; give "
            "[batch] and [batch, tokens]."
        )
    penalty = (-kl_coef * full_precision(kl.detach())).masked_fill(~kept, 0.0)
    if kl.shape[1] == 0:
        return penalty
    position = torch.arange(kl.shape[1], device=kl.device)
    last = torch.where(kept, position, -1).amax(dim=1)
    if place == "after":
        last = torch.where(last >= 0, (last + 1).clamp(max=kl.shape[1] - 1), last)
    return torch.where(position == last.unsqueeze(1), penalty + score.to(penalty).unsqueeze(1), penalty)
