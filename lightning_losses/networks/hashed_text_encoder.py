"""A small text encoder: a weighted sum of the vectors of hashed words and trigrams."""

import re
import zlib
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from lightning_losses.numerics.checks import check_count
from lightning_losses.numerics.probabilities import full_precision


class HashedTextEncoder(nn.Module):
    """Maps the hashed features of texts to vectors of length 1: ``sum_f exp(w_f) v_f``, scaled to length 1.

    Untrained it has random vectors and equal weights, so texts are similar if they share words and trigrams: a strong
    baseline. Features that never occur in training keep their initial vectors and weights.

    Args:
        buckets: number of vectors; give `hashed_features` the same number.
        dim: D, the dimension of the vectors.

    Shapes:
        inputs: [B, T] features from 1 on, 0 for padding; the result: [B, D].

    Raises:
        ValueError: a size below 1.

    Source:
        Bojanowski et al., 2017, "Enriching Word Vectors with Subword Information", arXiv:1607.04606, for hashed
        n-grams; the learned weights are this library's.

    Example:
        >>> encoder = HashedTextEncoder(buckets=100, dim=4)
        >>> encoder(hashed_features(["some words", "none"], buckets=100, length=20)).shape
        torch.Size([2, 4])
    """

    def __init__(self, buckets: int = 8192, dim: int = 384) -> None:
        super().__init__()
        for name, size in {"buckets": buckets, "dim": dim}.items():
            check_count("hashed_text_encoder", name, size)
        self.features = nn.Embedding(buckets, dim, padding_idx=0)
        self.log_weights = nn.Parameter(torch.zeros(buckets))

    def forward(self, inputs: Int[Tensor, "batch time"]) -> Float[Tensor, "batch dim"]:
        """The vectors of texts."""
        weights = self.log_weights[inputs].exp().masked_fill(inputs == 0, 0.0)
        # The vectors of a text's features are added where they lie: they are not copied together first.
        vectors = self.features.weight
        total = F.embedding_bag(inputs, vectors, per_sample_weights=weights.to(vectors), mode="sum")
        # In half precision a text without features would be 0 / 0.
        return F.normalize(full_precision(total), dim=-1).to(total.dtype)


def hashed_features(texts: Sequence[str], *, buckets: int, length: int) -> Int[Tensor, "texts length"]:
    """Each text's words and their trigrams as numbers in [1, buckets), equal on every machine, padded with 0.

    Example:
        >>> hashed_features(["to be", "be"], buckets=1000, length=4).count_nonzero(dim=-1).tolist()
        [4, 3]
    """
    rows = torch.zeros(len(texts), length, dtype=torch.long)
    for row, text in zip(rows, texts, strict=True):
        found: list[str] = []
        for word in re.findall(r"[^\W_]+", text.lower()):
            padded = f"<{word}>"
            found += [padded, *(padded[start : start + 3] for start in range(len(padded) - 2))]
        numbers = [zlib.crc32(feature.encode()) % (buckets - 1) + 1 for feature in found[:length]]
        row[: len(numbers)] = torch.tensor(numbers, dtype=torch.long)
    return rows
