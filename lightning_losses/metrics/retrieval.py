"""Retrieval scores: how well embeddings find each query's own document among all documents."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.metrics.bootstrap import mean_interval
from lightning_losses.numerics.checks import check_floating


class RetrievalScore(NamedTuple):
    """A score over queries, and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def retrieval_ranks(
    queries: Float[Tensor, "pairs dim"], documents: Float[Tensor, "pairs dim"]
) -> Int[Tensor, " pairs"]:
    """The rank, from 1, of each query's own document among all documents, by their cosine with the query.

    Among equal cosines the own document comes last, so that equal embeddings find nothing.

    Args:
        queries: the queries' embeddings.
        documents: the documents' embeddings; the i-th belongs to the i-th query.

    Raises:
        ValueError: shapes or dtypes that do not fit; NaN or inf.

    Example:
        >>> retrieval_ranks(torch.eye(3), torch.eye(3)[[0, 2, 1]] + 0.1).tolist()
        [1, 3, 3]
    """
    return own_ranks(_cosines("retrieval_ranks", queries, documents))


def own_ranks(scores: Float[Tensor, "pairs pairs"]) -> Int[Tensor, " pairs"]:
    """The rank, from 1, of each row's own column among all columns, the last among equals.

    Args:
        scores: of each query with each document; the i-th document belongs to the i-th query.

    Raises:
        ValueError: another shape; NaN, or inf as a query's score of its own document.

    Example:
        >>> own_ranks(torch.tensor([[3.0, 1.0], [2.0, 2.0]])).tolist()
        [1, 2]
    """
    check_floating("own_ranks", "scores", scores)
    if scores.ndim != 2 or scores.shape[0] != scores.shape[1]:
        raise ValueError(f"own_ranks: scores of shape {list(scores.shape)} came; give [pairs, pairs].")
    own = scores.diagonal().unsqueeze(-1)
    if not bool(own.isfinite().all() & ~scores.isnan().any()):
        raise ValueError("own_ranks: scores hold NaN, or inf for a query's own document; find where they come from.")
    return (scores >= own).sum(dim=-1)


def pooled_auc(queries: Float[Tensor, "pairs dim"], documents: Float[Tensor, "pairs dim"]) -> Float[Tensor, ""]:
    """The area under the ROC curve of all cosines at once: right pairs against wrong ones, of whichever query.

    It asks whether one threshold serves all queries, where ranks compare the documents of each query alone: the
    share of pairs of a right and a wrong cosine in which the right one is larger; an equal one counts half.

    Args:
        queries: the queries' embeddings.
        documents: the documents' embeddings; the i-th belongs to the i-th query.

    Returns:
        From 0 to 1; NaN of a single pair.

    Raises:
        ValueError: as `retrieval_ranks`.

    Example:
        >>> float(pooled_auc(torch.eye(3), torch.eye(3)[[0, 2, 1]]))  # of 3 right cosines one is 1, of 6 wrong ones two
        0.5
    """
    scores = _cosines("pooled_auc", queries, documents)
    wrong = scores[~torch.eye(len(scores), dtype=torch.bool, device=scores.device)].sort().values
    right = scores.diagonal().contiguous()
    below, level = (torch.searchsorted(wrong, right, right=side).double() for side in (False, True))
    return (below + level).mean() / 2 / len(wrong)


def retrieval_scores(ranks: Float[Tensor, "seeds pairs"] | Int[Tensor, "seeds pairs"]) -> dict[str, RetrievalScore]:
    """recall@1, recall@10 and the mean reciprocal rank, averaged over seeds, with 95 % intervals over the queries.

    Raises:
        ValueError: a shape other than [seeds, pairs], with at least one of each; ranks below 1, or NaN.

    Example:
        >>> retrieval_scores(torch.tensor([[1, 2, 20, 1]]))["recall@10"].value
        0.75
    """
    if ranks.ndim != 2 or 0 in ranks.shape or not bool((ranks >= 1).all()):
        raise ValueError(
            f"retrieval_scores: ranks of shape {list(ranks.shape)} came; give [seeds, pairs] numbers from 1 on, at "
            "least one of each."
        )
    each = {
        "recall@1": (ranks <= 1).double(),
        "recall@10": (ranks <= 10).double(),
        "MRR": 1 / ranks.double(),
    }
    scores = {}
    for name, values in each.items():
        per_query = values.mean(dim=0)
        ends = mean_interval(per_query)
        scores[name] = RetrievalScore(float(per_query.mean()), float(ends.low), float(ends.high))
    return scores


def _cosines(
    who: str, queries: Float[Tensor, "pairs dim"], documents: Float[Tensor, "pairs dim"]
) -> Float[Tensor, "pairs pairs"]:
    for name, tensor in (("queries", queries), ("documents", documents)):
        check_floating(who, name, tensor)
    if queries.ndim != 2 or queries.shape != documents.shape:
        raise ValueError(
            f"{who}: queries of shape {list(queries.shape)} came with documents of shape "
            f"{list(documents.shape)}; give [pairs, dim] twice."
        )
    if not bool(queries.isfinite().all() & documents.isfinite().all()):
        raise ValueError(f"{who}: embeddings hold NaN or inf, which have no rank; find the layer that produces them.")
    first, second = (torch.nn.functional.normalize(x.double(), dim=-1) for x in (queries, documents))
    return first @ second.mT
