"""Isotonic regression by pooling adjacent violators."""

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Shaped
from numpy.typing import NDArray
from torch import Tensor

# Rounds over all blocks continue while they pool at least this share of the blocks.
_WORTHWHILE = 0.05


class Knots(NamedTuple):
    """The corners of a non-decreasing, piecewise linear function."""

    score: Float[Tensor, " knots"]
    value: Float[Tensor, " knots"]


def pool_adjacent_violators(score: Float[Tensor, " rows"], outcome: Shaped[Tensor, " rows"]) -> Knots:
    """The non-decreasing function of the score with the smallest squared error to the outcomes.

    Equal scores are one point. Two adjacent blocks are pooled if the mean of the left one is not below that of the
    right one, until no such blocks are left. Rounds pool all runs of such blocks at once as long as this pools many;
    then they are pooled one by one. The order of pooling doesn't change the result. Computed on the host.

    Returns:
        The first and the last score of each block with its mean outcome; linear between blocks.
    """
    ordered, values = _sorted(score, outcome)
    starts = np.concatenate([[0], np.flatnonzero(ordered[1:] != ordered[:-1]) + 1])
    point = ordered[starts]
    weight = np.diff(starts, append=len(ordered)).astype(np.float64)
    total = np.add.reduceat(values, starts, dtype=np.float64)
    first = np.arange(len(point))
    while len(first) > 1:
        mean = total / weight
        rises = np.flatnonzero(mean[1:] > mean[:-1])
        if len(rises) == len(first) - 1:
            break
        starts = np.concatenate([[0], rises + 1])
        before = len(first)
        first, total, weight = first[starts], np.add.reduceat(total, starts), np.add.reduceat(weight, starts)
        if len(first) > (1 - _WORTHWHILE) * before:
            first, total, weight = _pool_one_by_one(first, total, weight)
            break
    last = np.append(first[1:], len(point)) - 1
    corners, means = np.stack([first, last], axis=-1).reshape(-1), np.repeat(total / weight, 2)
    distinct = np.ones(len(corners), dtype=bool)
    distinct[1::2] = first != last
    return Knots(torch.from_numpy(point[corners[distinct]]).to(score), torch.from_numpy(means[distinct]).to(score))


def interpolate(
    scores: Float[Tensor, "classes rows"],
    knot_scores: Float[Tensor, "classes knots"],
    knot_values: Float[Tensor, "classes knots"],
) -> Float[Tensor, "classes rows"]:
    """Piecewise linear interpolation, class by class, constant outside the knots."""
    right = torch.searchsorted(knot_scores, scores).clamp(1, max(knot_scores.shape[-1] - 1, 1))
    right = right.clamp(max=knot_scores.shape[-1] - 1)
    left = (right - 1).clamp(min=0)
    low, high = knot_scores.gather(-1, left), knot_scores.gather(-1, right)
    share = ((scores - low) / torch.where(high > low, high - low, 1.0)).clamp(0, 1)
    return torch.lerp(knot_values.gather(-1, left), knot_values.gather(-1, right), share)


def pad_knots(knots: list[Knots]) -> Knots:
    """Functions with different numbers of knots in one tensor; the last knot of each is repeated."""
    size = max(len(one.score) for one in knots)

    def padded(values: Tensor) -> Tensor:
        return torch.cat([values, values[-1:].expand(size - len(values))])

    return Knots(torch.stack([padded(one.score) for one in knots]), torch.stack([padded(one.value) for one in knots]))


def _sorted(
    score: Float[Tensor, " rows"], outcome: Shaped[Tensor, " rows"]
) -> tuple[NDArray[np.floating[Any]], NDArray[Any]]:
    """Sorted scores and their outcomes."""
    scores, outcomes = score.cpu().numpy(), outcome.cpu().numpy()
    if scores.dtype == np.float32 and outcomes.dtype == np.bool_ and not np.signbit(scores).any():
        # Non-negative floats are ordered like their bits, which leave one free for the outcome: sorting whole numbers
        # is several times faster than finding the order and applying it twice.
        keys = np.sort((scores.view(np.uint32) << np.uint32(1)) | outcomes)
        return (keys >> np.uint32(1)).view(np.float32), (keys & np.uint32(1)).astype(np.uint8)
    order = np.argsort(scores)
    return scores[order], outcomes[order]


def _pool_one_by_one(
    first: NDArray[Any], total: NDArray[Any], weight: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    stack: list[tuple[int, float, float]] = []
    for start, block, mass in zip(first.tolist(), total.tolist(), weight.tolist(), strict=True):
        while stack and stack[-1][1] * mass >= block * stack[-1][2]:
            start, earlier, earlier_mass = stack.pop()
            block, mass = block + earlier, mass + earlier_mass
        stack.append((start, block, mass))
    starts, totals, weights = zip(*stack, strict=True)
    return np.array(starts), np.array(totals), np.array(weights)
