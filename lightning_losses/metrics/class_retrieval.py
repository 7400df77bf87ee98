"""How well embeddings find others of their class: recall@1, precision at R and MAP@R of each sample."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.metrics.embedding_rows import blocks, checked_directions, class_of_each

# Two cosines that differ by less are equal.
_TIE = 1e-9


class ClassRetrieval(NamedTuple):
    """Scores of each sample that has others of its class, which are to be found among all others by cosine.

    Attributes:
        recall_at_1: [q] 1 where the nearest other is of its class.
        r_precision: [q] of the R nearest others, the share of its class, R being how many others of its class there
            are.
        map_at_r: [q] the precision at each place up to R that is of its class, summed and divided by R.
        samples: [q] which samples these are.
    """

    recall_at_1: Float[Tensor, " queries"]
    r_precision: Float[Tensor, " queries"]
    map_at_r: Float[Tensor, " queries"]
    samples: Int[Tensor, " queries"]


@torch.no_grad()
def class_retrieval(embeddings: Float[Tensor, "samples d"], target: Int[Tensor, " samples"]) -> ClassRetrieval:
    """Recall@1, R-precision and MAP@R of every sample among all others.

    Others of another class stand before those of its own where their cosines are equal, so that equal embeddings find
    nothing. Pairs are compared block by block: memory grows with the samples, time with their square.

    Args:
        embeddings: [n, d].
        target: [n] class indices; a class of one sample is found by nobody, but stands in the others' way.

    Returns:
        The scores; NaN if embeddings hold NaN or infinity.

    Raises:
        ValueError: shapes that do not fit; no class of two samples.

    Source:
        Musgrave, Belongie, Lim, 2020, "A Metric Learning Reality Check", arXiv:2003.08505.

    Example:
        >>> scores = class_retrieval(torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]), torch.tensor([0, 0, 1]))
        >>> scores.recall_at_1.tolist(), scores.samples.tolist()
        ([1.0, 1.0], [0, 1])
    """
    unit, label = checked_directions("class_retrieval", "embeddings", embeddings), target
    label = class_of_each("class_retrieval", "target", embeddings, label)
    _, place, sizes = torch.unique(label, return_inverse=True, return_counts=True)
    others = sizes[place] - 1
    samples = others.nonzero().flatten()
    if len(samples) == 0:
        raise ValueError("class_retrieval: no class has two samples; give several of a class.")
    if not bool(unit.isfinite().all()):
        nothing = unit.new_full((len(samples),), torch.nan)
        return ClassRetrieval(nothing, nothing, nothing, samples)
    most, parts = int(others.max()), []
    for rows in blocks(len(samples), len(unit)):
        queries = samples[rows]
        alike = place[queries].unsqueeze(1) == place
        cosines = (unit[queries] @ unit.T - _TIE * alike).scatter(1, queries.unsqueeze(1), -torch.inf)
        right = alike.gather(1, cosines.topk(most, dim=1).indices).double()
        rank = torch.arange(1, most + 1, device=unit.device)
        wanted = others[queries].unsqueeze(1)
        counted = right * (rank <= wanted)
        precision = counted.cumsum(dim=1) / rank
        sums = [right[:, 0], counted.sum(dim=1) / wanted[:, 0], (precision * counted).sum(dim=1) / wanted[:, 0]]
        parts.append(torch.stack(sums))
    recall, r_precision, map_at_r = torch.cat(parts, dim=1)
    return ClassRetrieval(recall, r_precision, map_at_r, samples)
