"""How well embeddings tell classes by what lies near: nearest neighbours, and the nearest class mean."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.metrics.embedding_rows import blocks, checked_directions, class_of_each
from lightning_losses.numerics.checks import check_count, check_temperature
from lightning_losses.numerics.rows import one_hot


@torch.no_grad()
def knn_accuracy(
    embeddings: Float[Tensor, "samples d"],
    target: Int[Tensor, " samples"],
    queries: Float[Tensor, "queries d"] | None = None,
    query_target: Int[Tensor, " queries"] | None = None,
    *,
    k: int = 20,
    temperature: float | None = 0.07,
) -> Float[Tensor, ""]:
    """The share of queries whose class the k nearest embeddings vote for, by cosine.

    A neighbour of cosine s has ``exp(s / τ)`` votes, or one vote without τ. Without queries each embedding is a query
    among the others. Queries are compared block by block: memory grows with the samples alone.

    Args:
        embeddings: [n, d] what the neighbours are taken from.
        target: [n] their class indices.
        queries: [m, d].
        query_target: [m] their class indices.
        k: neighbours, at least 1; at most all are taken.
        temperature: τ, above 0.

    Returns:
        From 0 to 1. A class that is no more than level with another is not voted for; of equally near neighbours beyond
        k any may vote. NaN if embeddings hold NaN or infinity.

    Raises:
        ValueError: shapes that do not fit; a single embedding without queries; numbers out of range.

    Source:
        Wu, Xiong, Yu, Lin, 2018, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination",
        arXiv:1805.01978, where τ is 0.07 and k is 200.

    Example:
        >>> embeddings, target = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]), torch.tensor([0, 0, 1])
        >>> knn_accuracy(embeddings, target, torch.tensor([[0.1, 1.0], [1.0, 0.2]]), torch.tensor([1, 1]), k=1).item()
        0.5
    """
    check_count("knn_accuracy", "k", k)
    if temperature is not None:
        check_temperature("knn_accuracy", temperature)
    bank, labels, asked, wanted = _bank_and_queries("knn_accuracy", embeddings, target, queries, query_target)
    if not bool(bank.isfinite().all() & asked.isfinite().all()):
        return bank.new_tensor(torch.nan)
    names, place = torch.unique(torch.cat([labels, wanted]), return_inverse=True)
    labels, wanted = place.split([len(labels), len(wanted)])
    right = 0
    for rows in blocks(len(asked), max(len(bank), len(names))):
        cosines = asked[rows] @ bank.T
        if queries is None:
            cosines.diagonal(rows.start).fill_(-torch.inf)
        near, neighbours = cosines.topk(min(k, len(bank) - (queries is None)), dim=1)
        votes = torch.ones_like(near) if temperature is None else ((near - near[:, :1]) / temperature).exp()
        by_class = votes.new_zeros(len(near), len(names)).scatter_add_(1, labels[neighbours], votes)
        right += int(_ahead(by_class, wanted[rows]).sum())
    return bank.new_tensor(right / len(asked))


@torch.no_grad()
def nearest_class_mean_accuracy(
    embeddings: Float[Tensor, "samples d"],
    target: Int[Tensor, " samples"],
    queries: Float[Tensor, "queries d"] | None = None,
    query_target: Int[Tensor, " queries"] | None = None,
) -> Float[Tensor, ""]:
    """The share of queries whose nearest class mean, by cosine, is that of their class.

    A class's mean is that of its embeddings, scaled to length 1. Without queries each embedding is a query, and the
    mean of its class that of the others; embeddings alone in their class are then no queries. So classes can be
    evaluated that no classifier was trained on.

    Args:
        embeddings: [n, d] what the means are taken of.
        target: [n] their class indices.
        queries: [m, d].
        query_target: [m] their class indices; a class without mean is never right.

    Returns:
        From 0 to 1. Equal cosines are not right. NaN if embeddings hold NaN or infinity.

    Raises:
        ValueError: shapes that do not fit; without queries, no class of two embeddings.

    Source:
        Mensink, Verbeek, Perronnin, Csurka, 2013, "Distance-Based Image Classification: Generalizing to New Classes at
        Near-Zero Cost", with cosines.

    Example:
        >>> embeddings, target = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]), torch.tensor([5, 5, 7])
        >>> nearest_class_mean_accuracy(embeddings, target, torch.tensor([[0.1, 1.0]]), torch.tensor([7])).item()
        1.0
    """
    who = "nearest_class_mean_accuracy"
    bank, labels, asked, wanted = _bank_and_queries(who, embeddings, target, queries, query_target)
    if not bool(bank.isfinite().all() & asked.isfinite().all()):
        return bank.new_tensor(torch.nan)
    names, place = torch.unique(torch.cat([labels, wanted]), return_inverse=True)
    labels, wanted = place.split([len(labels), len(wanted)])
    count = labels.bincount(minlength=len(names))
    sums = bank.new_zeros(len(names), bank.shape[1]).index_add_(0, labels, bank)
    means = torch.nn.functional.normalize(sums, dim=1)
    asking = torch.arange(len(asked), device=bank.device)
    if queries is None:
        asking = asking[count[wanted] >= 2]
        if len(asking) == 0:
            raise ValueError(f"{who}: no class has two embeddings; give several of a class, or queries.")
    right = 0
    for rows in blocks(len(asking), len(names)):
        some = asking[rows]
        own, label = asked[some], wanted[some]
        cosines = (own @ means.T).masked_fill(count == 0, -torch.inf)
        if queries is None:
            others = torch.nn.functional.normalize(sums[label] - own, dim=1)
            cosines.scatter_(1, label.unsqueeze(1), (own * others).sum(dim=1, keepdim=True))
        right += int(_ahead(cosines, label).sum())
    return bank.new_tensor(right / len(asking))


def _ahead(scores: Float[Tensor, "rows classes"], label: Int[Tensor, " rows"]) -> Tensor:
    """Which rows' own class has more than every other."""
    own = scores.gather(1, label.unsqueeze(1))
    return (own > scores.masked_fill(one_hot(label, scores) > 0, -torch.inf)).all(dim=1)


def _bank_and_queries(
    who: str, embeddings: Tensor, target: Tensor, queries: Tensor | None, query_target: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What neighbours are taken from, and what is asked; both with their classes."""
    bank, labels = checked_directions(who, "embeddings", embeddings), class_of_each(who, "target", embeddings, target)
    if queries is None:
        if query_target is not None or len(bank) < 2:
            came = "a query_target came without queries" if query_target is not None else "one embedding came"
            raise ValueError(f"{who}: {came}; give queries with their classes, or at least two embeddings alone.")
        return bank, labels, bank, labels
    asked = checked_directions(who, "queries", queries)
    if asked.shape[1] != bank.shape[1]:
        raise ValueError(
            f"{who}: queries of {asked.shape[1]} numbers came with embeddings of {bank.shape[1]}; give the same D."
        )
    return bank, labels, asked, class_of_each(who, "query_target", queries, query_target)
