"""Pairs of completions for tests, and what they come to by plain loops over numbers."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

CHOSEN_MASK = torch.tensor([[0, 1, 1, 1, 0], [1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [1, 1, 1, 1, 1]])
REJECTED_MASK = torch.tensor([[0, 1, 1, 1, 1, 1], [1, 0, 0, 0, 0, 0], [0, 0, 1, 1, 1, 0], [0, 1, 1, 0, 1, 0]])


def examples(seed: int = 0, reference: bool = True) -> dict[str, Tensor]:
    """Four pairs of completions of 1 to 5 tokens, in float64."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(mask: Tensor) -> Tensor:
        return -2 * torch.rand(mask.shape, dtype=torch.float64, generator=generator)

    values = {"chosen_logps": drawn(CHOSEN_MASK), "rejected_logps": drawn(REJECTED_MASK)}
    if reference:
        values |= {"ref_chosen_logps": drawn(CHOSEN_MASK), "ref_rejected_logps": drawn(REJECTED_MASK)}
    return {**values, "chosen_mask": CHOSEN_MASK, "rejected_mask": REJECTED_MASK}


class Pair(NamedTuple):
    """A pair's sums and means of log ratios (of log-probabilities without a reference), as numbers."""

    chosen: float
    rejected: float
    chosen_mean: float
    rejected_mean: float


def numbers(values: dict[str, Tensor]) -> list[Pair]:
    """The pairs, added up one token at a time."""
    pairs = []
    for row in range(len(values["chosen_logps"])):
        sums, means = [], []
        for side in ("chosen", "rejected"):
            total, count = 0.0, 0
            for place, counts in enumerate(values[f"{side}_mask"][row].tolist()):
                if counts:
                    total += values[f"{side}_logps"][row, place].item()
                    if f"ref_{side}_logps" in values:
                        total -= values[f"ref_{side}_logps"][row, place].item()
                    count += 1
            sums.append(total)
            means.append(total / count)
        pairs.append(Pair(*sums, *means))
    return pairs


def mean(values: list[float]) -> Tensor:
    """Their mean, in float64."""
    return torch.tensor(sum(values) / len(values), dtype=torch.float64)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def direct(chosen: float, rejected: float = 0.0) -> dict[str, Tensor]:
    """One pair of completions of one token with these log ratios."""
    tensors = {"chosen_logps": chosen - 50.0, "rejected_logps": rejected - 50.0}
    tensors |= {"ref_chosen_logps": -50.0, "ref_rejected_logps": -50.0}
    return {name: torch.tensor([[value]], dtype=torch.float64) for name, value in tensors.items()}
