"""Advantages of completions over the others of their prompt."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.numerics.checks import check_choice
from lightning_losses.numerics.groups import (
    as_rewards,
    group_slots,
    group_statistics,
    wide_rewards,
)

Scale = Literal["group", "batch", "none"]
Singleton = Literal["zero", "raw"]


def group_advantage(
    rewards: Float[Tensor, "batch"] | Float[Tensor, "batch functions"],
    *,
    group_size: int | None = None,
    index: Int[Tensor, " batch"] | None = None,
    weights: Sequence[float] | Float[Tensor, " functions"] | None = None,
    aggregation: Literal["sum_then_normalize", "normalize_then_sum"] = "sum_then_normalize",
    scale: Scale = "group",
    singleton: Singleton = "zero",
    eps: float = 1e-4,
) -> Float[Tensor, " batch"]:
    """GRPO's advantages: how much better a completion is than the mean of its prompt's, in standard deviations.

    ``A_i = (R_i - mean_g) / (sd_g + eps)``, exactly 0 where all rewards of a group are equal. Truncated completions are
    of the group too. Give the rewards of all processes, and take your own rows of the result.

    Args:
        rewards: [B], or [B, K] of K reward functions; NaN where a function says nothing. A row without any reward is
            left out of the statistics and gets 0.
        group_size: the rows of a prompt's completions, one after the other; or
        index: [B] a whole number of each row's prompt, for groups of unequal sizes.
        weights: K weights of the functions; None: 1 each.
        aggregation: "sum_then_normalize" compares weighted sums. "normalize_then_sum" compares each function's rewards
            within the group, and their weighted sum with the whole batch's; `scale` then says nothing.
        scale: what differences are divided by: the standard deviation of the "group", of the "batch", or "none", as in
            Dr. GRPO.
        singleton: what a completion gets that is alone in its group: "zero", or its "raw" reward, over 1 + eps where
            the group scales.
        eps: is added to the standard deviation.

    Returns:
        [B] advantages, without gradient.

    Raises:
        ValueError: groups that do not fit; infinite rewards, where they are on the CPU; other words than these.

    Source:
        Shao et al., 2024, "DeepSeekMath", arXiv:2402.03300; Dr. GRPO: arXiv:2503.20783. Standard deviations divide by
        one less than the count, as everywhere; eps is 1e-4 in TRL, 1e-6 in verl, 1e-9 in OpenRLHF. Of a single
        completion TRL makes 0, verl the raw reward, OpenRLHF NaN. In single precision equal rewards can get advantages
        up to 0.9 there, since their computed mean isn't quite theirs.

    Example:
        >>> group_advantage(torch.tensor([1.0, 0.0, 0.7, 0.7]), group_size=2)
        tensor([ 0.7070, -0.7070,  0.0000,  0.0000])
    """
    check_choice("group_advantage", "aggregation", aggregation, ("sum_then_normalize", "normalize_then_sum"))
    check_choice("group_advantage", "scale", scale, Scale)
    check_choice("group_advantage", "singleton", singleton, Singleton)
    each = wide_rewards("group_advantage", rewards)
    if each.ndim not in (1, 2):
        raise ValueError(
            f"group_advantage: rewards of shape {list(rewards.shape)} came; give [batch] or [batch, functions]."
        )
    each = each if each.ndim == 2 else each.unsqueeze(1)
    factors = each.new_ones(each.shape[1]) if weights is None else torch.as_tensor(weights, dtype=each.dtype)
    if factors.shape != each.shape[1:]:
        raise ValueError(
            f"group_advantage: {factors.numel()} weights came for {each.shape[1]} reward functions; give one for each."
        )
    factors = factors.to(each)
    slots = group_slots("group_advantage", len(each), group_size, index, each.device)
    known = ~torch.isnan(each)
    scorable = known.any(dim=1)
    whole = torch.zeros_like(slots)
    if aggregation == "normalize_then_sum":
        compared = torch.zeros_like(each[:, 0])
        for column, there, factor in zip(each.unbind(1), known.unbind(1), factors, strict=True):
            own = group_statistics(column, slots, there)
            z = ((column - own.mean) / (own.deviation + eps)).masked_fill(own.equal | ~there, 0.0)
            compared = compared + factor * z
        of_all = group_statistics(compared, whole, scorable)
        advantage = (compared - of_all.mean) / (of_all.deviation + eps)
        return as_rewards(advantage.masked_fill(of_all.equal | ~scorable, 0.0), rewards)
    total = (factors * each.masked_fill(~known, 0.0)).sum(dim=1)
    own = group_statistics(total, slots, scorable)
    alone = own.number == 1
    advantage = (total - own.mean).masked_fill(own.equal, 0.0)
    deviation = own.deviation
    if singleton == "raw":
        advantage = torch.where(alone, total, advantage)
        deviation = deviation.masked_fill(alone, 1.0)
    if scale == "batch":
        deviation = group_statistics(total, whole, scorable).deviation
    if scale != "none":
        advantage = advantage / (deviation + eps)
    return as_rewards(advantage.masked_fill(~scorable, 0.0), rewards)
