"""How many documents embeddings of a dimension can tell apart, when every pair of them is the answer to some query."""

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor

from lightning_losses.numerics.checks import check_count, check_number, check_temperature

# Steps between two looks at the accuracy.
_LOOK = 50


class CapacityProbe(NamedTuple):
    """How well free embeddings answer all queries.

    Attributes:
        accuracy: the share of queries whose nearest documents are those relevant to them, at the best look.
        steps: the steps taken.
    """

    accuracy: float
    steps: int


def retrieval_capacity_probe(
    documents: int,
    dimension: int,
    *,
    relevant: int = 2,
    steps: int = 1500,
    temperature: float = 0.1,
    lr: float = 0.01,
    patience: int = 1000,
    seed: int = 0,
) -> CapacityProbe:
    """Train free embeddings to answer the query of every set of k documents; 1 where the dimension is enough.

    A query for each of the ``C(n, k)`` sets and the n documents are vectors of length 1, trained by Adam without any
    network on ``-mean log softmax(q D / τ)`` over all relevant pairs. No embedding model of this dimension does better
    than vectors that are free, as far as the training finds the best. It ends once all queries are right, after the
    given steps, or when the loss has not fallen by 1e-5 within `patience` steps.

    Args:
        documents: n, above k.
        dimension: of the embeddings, at least 1.
        relevant: k, at least 1.
        steps: the most steps, at least 1.
        temperature: τ, above 0.
        lr: Adam's learning rate, above 0.
        patience: in steps, at least 1.
        seed: of the start.

    Raises:
        ValueError: numbers out of range.

    Source:
        Weller, Boratko, Naim, Lee, 2025, "On the Theoretical Limitations of Embedding-Based Retrieval",
        arXiv:2508.21038, and its code google-deepmind/limit.

    Example:
        >>> retrieval_capacity_probe(3, dimension=3).accuracy
        1.0
        >>> retrieval_capacity_probe(8, dimension=2, steps=50).accuracy < 1
        True
    """
    who = "retrieval_capacity_probe"
    for name, value in (("dimension", dimension), ("relevant", relevant), ("steps", steps), ("patience", patience)):
        check_count(who, name, value)
    if not isinstance(documents, int) or documents <= relevant:
        raise ValueError(f"{who}: documents={documents!r} came for {relevant} relevant to a query; give more.")
    check_temperature(who, temperature)
    check_number(who, "lr", lr, above=0)
    generator = torch.Generator().manual_seed(seed)
    answers: Int[Tensor, "queries relevant"] = torch.combinations(torch.arange(documents), relevant)
    vectors = [
        F.normalize(torch.randn(rows, dimension, generator=generator), dim=1).requires_grad_()
        for rows in (len(answers), documents)
    ]
    queries, corpus = vectors
    optimizer = torch.optim.Adam(vectors, lr=lr)
    best, accuracy, waited = math.inf, 0.0, 0
    for step in range(1, steps + 1):
        with torch.enable_grad():
            loss = -((queries @ corpus.T / temperature).log_softmax(dim=1).gather(1, answers)).mean()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        with torch.no_grad():
            for rows in vectors:
                rows.copy_(F.normalize(rows, dim=1))
            if step % _LOOK == 0 or step == steps:
                nearest = (queries @ corpus.T).topk(relevant, dim=1).indices.sort(dim=1).values
                accuracy = max(accuracy, float((nearest == answers).all(dim=1).double().mean()))
        fallen = loss.item()
        waited = 0 if fallen < best - 1e-5 else waited + 1
        best = min(best, fallen)
        if accuracy == 1 or waited >= patience:
            break
    return CapacityProbe(accuracy, step)


def retrieval_capacity(dimension: int, *, relevant: int = 2, most: int = 256, **probe: Any) -> int:
    """The most documents that free embeddings of a dimension answer all queries for; `most` if that many.

    Found by doubling the number until a probe fails, then by halving the interval.

    Args:
        dimension: of the embeddings, at least 1.
        relevant: k, the documents that are relevant to a query.
        most: where the search ends, above k.
        probe: `steps`, `temperature`, `lr`, `patience`, `seed` of `retrieval_capacity_probe`.

    Returns:
        k if no more documents than that can be told apart.

    Raises:
        ValueError: numbers out of range.

    Source:
        As `retrieval_capacity_probe`. The authors' search ends at the first number that fails, too.

    Example:
        >>> retrieval_capacity(1, most=4, steps=50)
        2
    """
    if not isinstance(most, int) or most <= relevant:
        raise ValueError(f"retrieval_capacity: most={most!r} came for {relevant} relevant to a query; give more.")

    def enough(documents: int) -> bool:
        return retrieval_capacity_probe(documents, dimension, relevant=relevant, **probe).accuracy == 1

    low: int = relevant
    high: int = relevant + 1
    while enough(high):
        low, high = high, min(2 * high, most)
        if low == most:
            return most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if enough(middle) else (low, middle)
    return low
