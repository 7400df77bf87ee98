"""Softplus attention: scores of cosines that grow with the number of keys, normalised by their sum, and sharpened."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from lightning_losses.numerics.checks import check_floating, check_number
from lightning_losses.numerics.distances import unit_rows
from lightning_losses.numerics.probabilities import full_precision

_NAME = "softplus_attention"
# Rows with at most so many visible keys are sharpened without the offset.
_SHORT = 3


class SoftplusWeights(NamedTuple):
    """Attention weights before and after the re-weighting, in full precision.

    Attributes:
        lssa: [..., queries, keys] of length-scaled softplus attention; each row sums to 1.
        lssar: [..., queries, keys] the same sharpened; each row sums to 1, or to 0 where all keys were alike.
    """

    lssa: Float[Tensor, "... queries keys"]
    lssar: Float[Tensor, "... queries keys"]


def softplus_weights(
    query: Float[Tensor, "... queries d"],
    key: Float[Tensor, "... keys d"],
    mask: Bool[Tensor, "... queries keys"] | None = None,
    power: float = 3.0,
) -> SoftplusWeights:
    """The weights of `softplus_attention`, which describes the arguments.

    Example:
        >>> query = torch.eye(3).unsqueeze(0)
        >>> weights = softplus_weights(query, query)
        >>> weights.lssa[0, 1], weights.lssar[0, 1]
        (tensor([0.3772, 0.6228, 0.0000]), tensor([0.1817, 0.8183, 0.0000]))
    """
    for name, tensor in (("query", query), ("key", key)):
        check_floating(_NAME, name, tensor)
    check_number(_NAME, "power", power, least=1)
    if query.shape[-1] != key.shape[-1] or (mask is None and query.shape[-2] != key.shape[-2]):
        raise ValueError(
            f"{_NAME}: query of shape {list(query.shape)} came with key of shape {list(key.shape)}; give vectors "
            "of one length, and without a mask as many queries as keys."
        )
    if mask is None:
        mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
    with torch.autocast(query.device.type, enabled=False):
        cosine = unit_rows(full_precision(query)) @ unit_rows(full_precision(key)).transpose(-2, -1)
        visible = mask.sum(dim=-1, keepdim=True).to(cosine.dtype)
        scale = math.log(query.shape[-1]) * visible.clamp(min=1).log()
        # A row that sees nothing is 0; one whose keys all point away from it is small, and no less a row.
        scores = F.softplus(scale * cosine).masked_fill(~mask, 0.0)
        lssa = F.normalize(scores, p=1, dim=-1, eps=torch.finfo(scores.dtype).tiny)
        above = F.relu(lssa * visible - (visible > _SHORT).to(lssa.dtype))
        # Over its largest entry, no row is too small for its power.
        largest = above.detach().amax(dim=-1, keepdim=True)
        sharp = (above / largest.masked_fill(largest == 0, 1.0)) ** power
        return SoftplusWeights(lssa, F.normalize(sharp, p=1, dim=-1, eps=1e-12))


def softplus_attention(
    query: Float[Tensor, "... queries d"],
    key: Float[Tensor, "... keys d"],
    value: Float[Tensor, "... keys v"],
    mask: Bool[Tensor, "... queries keys"] | None = None,
    *,
    power: float | None = 3.0,
) -> Float[Tensor, "... queries v"]:
    """Softplus attention: scores of cosines that grow with the number of keys, normalised by their sum, and sharpened.

    With q and k of length 1, N_i the number of keys that query i sees, and d their dimension

    ``A_ij ∝ softplus(log d · log N_i · q_i k_j)`` (LSSA), and re-weighted
    ``A'_ij ∝ max(0, N_i A_ij - o_i)^p`` (LSSAR), with ``o_i = 1``, and 0 where query i sees at most 3 keys.

    Rows of A and A' sum to 1. ``N_i A_ij`` is 1 for a key of average weight: keys below the average are dropped, the
    others sharpened. Where all keys weigh the same, nothing is above the average, and the row of A' is 0. A first token
    sees itself alone, with weight 1.

    Args:
        query: [..., queries, d], of any length above 0.
        key: [..., keys, d].
        value: [..., keys, v].
        mask: [..., queries, keys] True where a query sees a key; None: each sees itself and the keys before it.
        power: p, at least 1; None for LSSA without re-weighting.

    Returns:
        [..., queries, v], in the dtype of the values.

    Raises:
        ValueError: shapes or dtypes that do not fit; a power below 1.

    Source:
        Gao, Spratling, 2025, "Softplus Attention with Re-weighting Boosts Length Extrapolation in Large Language
        Models", arXiv:2501.13428: power 3 was best at the length of training, 15 beyond it. The first 3 rows without
        offset are there the first 3 of a causal mask; with packed documents here those of each document.

    Example:
        >>> tokens = torch.eye(3).unsqueeze(0)
        >>> softplus_attention(tokens, tokens, tokens)[0, 1]
        tensor([0.1817, 0.8183, 0.0000])
    """
    weights = softplus_weights(query, key, mask, 1.0 if power is None else power)
    return (weights.lssa if power is None else weights.lssar).to(value.dtype) @ value
