"""Isotonic regression by pooling adjacent violators."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

# Rounds over all blocks at once go on while they pool at least this share of them.
_WORTHWHILE = 0.05


class Knots(NamedTuple):
    """A non-decreasing, piecewise linear function by its corners."""

    score: Float[Tensor, " knots"]
    value: Float[Tensor, " knots"]


def pool_adjacent_violators(score: Float[Tensor, " rows"], outcome: Float[Tensor, " rows"]) -> Knots:
    """The non-decreasing function of the score with the smallest squared error to the outcomes.

    Equal scores are one point. Adjacent blocks of which the left one's mean is not below the right one's are pooled
    until there are none: all runs of such blocks at once, round after round, while that pools many, then one by one.
    Which are pooled first doesn't change the result.

    Returns:
        The first and the last score of each block with its mean outcome; linear between blocks.
    """
    ordered, order = score.sort()
    point, group = torch.unique_consecutive(ordered, return_inverse=True)
    weight = torch.bincount(group).double()
    total = torch.bincount(group, weights=outcome[order].double())
    first = torch.arange(len(point), device=score.device)
    while len(first) > 1:
        mean = total / weight
        rises = mean[1:] > mean[:-1]
        if bool(rises.all()):
            break
        starts = torch.cat([torch.zeros(1, dtype=torch.long, device=score.device), torch.nonzero(rises)[:, 0] + 1])
        before = len(first)
        first, total, weight = first[starts], _segment_sums(total, starts), _segment_sums(weight, starts)
        if len(first) > (1 - _WORTHWHILE) * before:
            first, total, weight = _pool_one_by_one(first, total, weight)
            break
    last = torch.cat([first[1:], first.new_tensor([len(point)])]) - 1
    value = total / weight
    corners = torch.stack([first, last], dim=-1).reshape(-1)
    values = value.repeat_interleave(2)
    distinct = torch.ones_like(corners, dtype=torch.bool)
    distinct[1::2] = first != last
    return Knots(point[corners[distinct]], values[distinct].to(score.dtype))


def interpolate(scores: Float[Tensor, "classes rows"], knot_scores: Float[Tensor, "classes knots"],
                knot_values: Float[Tensor, "classes knots"]) -> Float[Tensor, "classes rows"]:
    """Piecewise linear interpolation, class by class, constant outside the knots."""
    right = torch.searchsorted(knot_scores, scores).clamp(1, max(knot_scores.shape[-1] - 1, 1))
    right = right.clamp(max=knot_scores.shape[-1] - 1)
    left = (right - 1).clamp(min=0)
    low, high = knot_scores.gather(-1, left), knot_scores.gather(-1, right)
    share = ((scores - low) / torch.where(high > low, high - low, 1.0)).clamp(0, 1)
    return torch.lerp(knot_values.gather(-1, left), knot_values.gather(-1, right), share)


def pad_knots(knots: list[Knots]) -> Knots:
    """Functions of different numbers of knots in one tensor, the last knot of each repeated."""
    size = max(len(one.score) for one in knots)

    def padded(values: Tensor) -> Tensor:
        return torch.cat([values, values[-1:].expand(size - len(values))])

    return Knots(torch.stack([padded(one.score) for one in knots]), torch.stack([padded(one.value) for one in knots]))


def _segment_sums(values: Float[Tensor, " blocks"], starts: Tensor) -> Float[Tensor, " segments"]:
    number = torch.zeros(len(values), dtype=torch.long, device=values.device)
    number[starts[1:]] = 1
    return torch.bincount(number.cumsum(0), weights=values)


def _pool_one_by_one(first: Tensor, total: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    stack: list[tuple[int, float, float]] = []
    for start, block, mass in zip(first.tolist(), total.tolist(), weight.tolist(), strict=True):
        while stack and stack[-1][1] * mass >= block * stack[-1][2]:
            start, earlier, earlier_mass = stack.pop()
            block, mass = block + earlier, mass + earlier_mass
        stack.append((start, block, mass))
    starts, totals, weights = zip(*stack, strict=True)
    return first.new_tensor(starts), total.new_tensor(totals), weight.new_tensor(weights)
