"""Batches of completions, and losses written token by token in Python's own numbers."""

import math

import torch

from tests.losses.examples import with_gradients


def batch(seed=0, completions=6, tokens=5, drift=0.5, lengths=(5, 3, 1, 4, 5, 2)):
    """A step's tensors in float64: a policy that has moved from the one that sampled, and padding."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    old = -normal(completions, tokens).abs() - 0.1
    return {
        "logps": old + drift * normal(completions, tokens),
        "old_logps": old,
        "advantages": normal(completions),
        "completion_mask": torch.arange(tokens) < torch.tensor(lengths[:completions]).unsqueeze(1),
    }


def by_token(values, cost, aggregation="token_mean", length=None):
    """The mean of ``cost(log ratio, advantage, log p)`` over the tokens of a batch, by definition."""
    rows = [
        [
            cost(now - old, advantage, now)
            for now, old, kept in zip(
                values["logps"][row].tolist(),
                values["old_logps"][row].tolist(),
                values["completion_mask"][row].tolist(),
                strict=True,
            )
            if kept
        ]
        for row, advantage in enumerate(values["advantages"].tolist())
    ]
    return averaged([row for row in rows if row], aggregation, length)


def by_completion(values, cost, aggregation="seq_mean"):
    """The mean of ``cost(log ratios of the tokens, advantage)`` of whole completions, at each of their tokens."""
    rows = []
    for row, advantage in enumerate(values["advantages"].tolist()):
        kept = values["completion_mask"][row]
        ratios = (values["logps"][row] - values["old_logps"][row])[kept].tolist()
        if ratios:
            rows.append([cost(ratios, advantage)] * len(ratios))
    return averaged(rows, aggregation)


def averaged(rows, aggregation, length=None):
    if aggregation == "token_mean":
        return math.fsum(value for row in rows for value in row) / sum(map(len, rows))
    if aggregation == "seq_mean":
        return math.fsum(math.fsum(row) / len(row) for row in rows) / len(rows)
    return math.fsum(value for row in rows for value in row) / len(rows) / (length or 1)


def clipped(log_ratio, advantage, low=0.2, high=0.2):
    """The clipped surrogate as PPO's paper writes it."""
    ratio = math.exp(log_ratio)
    return -min(ratio * advantage, min(max(ratio, 1 - low), 1 + high) * advantage)


def assert_equal(value, expected):
    torch.testing.assert_close(value.item(), expected, rtol=1e-12, atol=1e-12)


def slopes(loss, values):
    """The gradient by the log-probabilities."""
    return with_gradients(loss, values)[1]["logps"]
