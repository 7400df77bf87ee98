"""Statistics over groups of a batch's rows, such as the completions of one prompt."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from lightning_losses.numerics.checks import check_tensor, debugging
from lightning_losses.numerics.probabilities import known_somewhere


class GroupStatistics(NamedTuple):
    """Of each row's group, at each row.

    Attributes:
        number: how many rows count.
        mean: their mean; 0 without one.
        deviation: their standard deviation, dividing by one less than their number; 0 of a single one.
        equal: whether all of them are the same number, to the bit.
    """

    number: Float[Tensor, " batch"]
    mean: Float[Tensor, " batch"]
    deviation: Float[Tensor, " batch"]
    equal: Bool[Tensor, " batch"]


def group_slots(
    caller: str, rows: int, group_size: int | None, index: Int[Tensor, " batch"] | None, device: torch.device
) -> Int[Tensor, " batch"]:
    """A number of each row's group, from 0 on, below the number of rows.

    Args:
        caller: who asks, for messages.
        rows: how many there are.
        group_size: groups are so many rows one after the other.
        index: [B] any whole number of each row's group.
        device: where the result lies.

    Raises:
        ValueError: neither or both of `group_size` and `index`; a size that does not divide the rows; an index of
            another shape.
    """
    if (group_size is None) is (index is None):
        raise ValueError(
            f"{caller}: {'neither' if index is None else 'both'} of group_size and index came; give the number of rows "
            "of each group, or the group of each row."
        )
    if index is not None:
        check_tensor(caller, "index", index)
        if index.shape != (rows,) or index.is_floating_point():
            raise ValueError(
                f"{caller}: index of shape {list(index.shape)} and dtype {index.dtype} came for {rows} rows; give a "
                "whole number of each row's group."
            )
        # A row's group has the number of rows that are in groups before it.
        return torch.searchsorted(index.sort().values, index).to(device)
    assert group_size is not None
    if group_size < 1 or rows % group_size:
        raise ValueError(f"{caller}: group_size={group_size} came for {rows} rows; give a number that divides them.")
    return torch.arange(rows, device=device) // group_size


def group_total(values: Float[Tensor, " batch"], slots: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """The sum over each row's group, at each row.

    Example:
        >>> group_total(torch.tensor([1.0, 2.0, 5.0]), torch.tensor([0, 0, 2]))
        tensor([3., 3., 5.])
    """
    return torch.zeros_like(values).index_add(0, slots, values)[slots]


def group_statistics(
    values: Float[Tensor, " batch"], slots: Int[Tensor, " batch"], kept: Bool[Tensor, " batch"]
) -> GroupStatistics:
    """Mean and standard deviation of each row's group, at each row."""
    count = group_total(kept.to(values), slots)
    known = values.masked_fill(~kept, 0.0)
    mean = group_total(known, slots) / count.clamp(min=1)
    deviations = (known - mean).masked_fill(~kept, 0.0)
    deviation = (group_total(deviations.square(), slots) / (count - 1).clamp(min=1)).sqrt()
    ends = [
        torch.full_like(values, fill).scatter_reduce(0, slots, values.masked_fill(~kept, fill), reduce)[slots]
        for fill, reduce in ((-torch.inf, "amax"), (torch.inf, "amin"))
    ]
    return GroupStatistics(count, mean, deviation, ends[0] <= ends[1])


def wide_rewards(
    caller: str, rewards: Shaped[Tensor, "..."], clip: tuple[float, float] | None = None
) -> Float[Tensor, "..."]:
    """Rewards in double precision where the device has it, without gradient, within the two numbers of `clip`.

    In single precision seven rewards of 0.7 differ from their mean.

    Raises:
        ValueError: no tensor; a reward that is infinite, where that can be known for free, or in `debug`; a clip whose
            numbers do not rise.
    """
    check_tensor(caller, "rewards", rewards)
    if clip is not None and not clip[0] <= clip[1]:
        raise ValueError(f"{caller}: a clip from {clip[0]} to {clip[1]} came; give the lower number first.")
    given = rewards.detach() if clip is None else rewards.detach().clamp(*clip)
    infinite = torch.isinf(given)
    if known_somewhere(infinite) or (debugging() and bool(infinite.any())):
        raise ValueError(
            f"{caller}: infinite rewards came; give finite ones, and NaN to a completion that can't be scored."
        )
    return given.float() if given.device.type == "mps" else given.double()


def as_rewards(values: Float[Tensor, "..."], rewards: Shaped[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Values in the precision of rewards, single at least."""
    return values if rewards.dtype == torch.float64 else values.float()
