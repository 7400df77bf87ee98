"""Advantages of completions over the mean of the others of their prompt, which leaves each one's own reward out."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.numerics.checks import check_choice, check_tensor
from lightning_losses.numerics.group_advantage import Singleton
from lightning_losses.numerics.groups import as_rewards, group_slots, group_statistics, wide_rewards


def rloo_advantage(
    rewards: Float[Tensor, " batch"],
    *,
    group_size: int | None = None,
    index: Int[Tensor, " batch"] | None = None,
    reward_clip: tuple[float, float] | None = None,
    kl: Float[Tensor, " batch"] | None = None,
    beta: float = 0.05,
    normalize: bool = False,
    singleton: Singleton = "zero",
    eps: float = 1e-4,
) -> Float[Tensor, " batch"]:
    """RLOO's advantages: a completion's reward less the mean reward of the others of its prompt.

    ``A_i = R_i - 1/(G - 1) sum_{j≠i} R_j = G / (G - 1) (R_i - mean_g)``. Since the baseline does not know i, the
    gradient is unbiased, where that with the group's mean is (G - 1) / G of it. Give the rewards of all processes.

    Args:
        rewards: [B]; NaN of what can't be scored, which is left out of the baselines and gets 0.
        group_size: the rows of a prompt's completions, one after the other; or
        index: [B] a whole number of each row's prompt, for groups of unequal sizes.
        reward_clip: rewards are held within these two numbers first.
        kl: [B] of the policy that sampled to a reference: the sum over a completion's tokens of the estimate k1;
            ``beta kl`` is subtracted from the reward.
        beta: its weight.
        normalize: subtract the mean over the batch and divide by the standard deviation, plus eps.
        singleton: what a completion gets that is alone in its group: "zero", or its "raw" reward.
        eps: of `normalize`.

    Returns:
        [B] advantages, without gradient.

    Raises:
        ValueError: groups, shapes or a clip that do not fit; infinite rewards, where they are on the CPU.

    Source:
        Kool, van Hoof, Welling, 2019, "Buy 4 REINFORCE Samples, Get a Baseline for Free!", and Ahmadian et al., 2024,
        "Back to Basics: Revisiting REINFORCE-Style Optimization for Learning from Human Feedback in LLMs",
        arXiv:2402.14740. Clip, KL and baseline come in TRL's order; OpenRLHF subtracts the baseline first. Of a single
        completion TRL makes 0, verl the raw reward, OpenRLHF NaN.

    Example:
        >>> rloo_advantage(torch.tensor([1.0, 0.0, 0.0, 0.5]), group_size=2)
        tensor([ 1.0000, -1.0000, -0.5000,  0.5000])
    """
    check_choice("rloo_advantage", "singleton", singleton, Singleton)
    check_tensor("rloo_advantage", "rewards", rewards)
    if rewards.ndim != 1 or (kl is not None and kl.shape != rewards.shape):
        shapes = f"{list(rewards.shape)}" if kl is None else f"{list(rewards.shape)} with kl of {list(kl.shape)}"
        raise ValueError(f"rloo_advantage: rewards of shape {shapes} came; give [batch].")
    total = wide_rewards("rloo_advantage", rewards, reward_clip)
    if kl is not None:
        total = total - beta * kl.detach().to(total)
    slots = group_slots("rloo_advantage", len(total), group_size, index, total.device)
    scorable = ~torch.isnan(total)
    total = total.masked_fill(~scorable, 0.0)
    own = group_statistics(total, slots, scorable)
    advantage = ((total - own.mean) * own.number / (own.number - 1).clamp(min=1)).masked_fill(own.equal, 0.0)
    if singleton == "raw":
        advantage = torch.where(own.number == 1, total, advantage)
    if normalize:
        of_all = group_statistics(advantage, torch.zeros_like(slots), scorable)
        advantage = ((advantage - of_all.mean) / (of_all.deviation + eps)).masked_fill(of_all.equal, 0.0)
    return as_rewards(advantage.masked_fill(~scorable, 0.0), rewards)
