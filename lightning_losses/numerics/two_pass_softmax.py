"""Exponentials as a mantissa and a power of 2, whose sums need no maximum, so that a softmax takes two passes.

``exp(x) = m 2^n`` with ``n = round(x log2 e)`` and m in [1/sqrt(2), sqrt(2)] neither overflows nor underflows. Pairs
are added one by one or in chunks, in any order, on several processes too; a running maximum is not needed.

Source: Dukhan, Ablavatski, 2020, "The Two-Pass Softmax Algorithm", arXiv:2001.04438.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

# log 2 as a number of few bits and the rest: n times the first is exact, so that x - n log 2 keeps its digits.
_LOG_2_HIGH = 0.693359375
_LOG_2_LOW = math.log(2) - _LOG_2_HIGH


class ExponentPair(NamedTuple):
    """The number ``mantissa * 2^exponent``, element by element; exponents are whole, in the dtype of the mantissa."""

    mantissa: Float[Tensor, "*shape"]
    exponent: Float[Tensor, "*shape"]


def exponent_pair(x: Float[Tensor, "*shape"]) -> ExponentPair:
    """``exp(x)`` as a pair; 0 for -inf.

    Example:
        >>> exponent_pair(torch.tensor([0.0, 1000.0, -torch.inf]))
        ExponentPair(mantissa=tensor([1.0000, 0.8095, 0.0000]), exponent=tensor([   0., 1443.,    0.]))
    """
    none = torch.isneginf(x)
    finite = x.masked_fill(none, 0.0)
    exponent = torch.round(finite * (1 / math.log(2)))
    mantissa = torch.exp((finite - exponent * _LOG_2_HIGH) - exponent * _LOG_2_LOW)
    return ExponentPair(mantissa.masked_fill(none, 0.0), exponent.masked_fill(none, 0.0))


def merge(one: ExponentPair, other: ExponentPair) -> ExponentPair:
    """The sum of two pairs, element by element; associative but for rounding.

    Example:
        >>> merge(exponent_pair(torch.tensor(0.0)), exponent_pair(torch.tensor(0.0)))
        ExponentPair(mantissa=tensor(2.), exponent=tensor(0.))
    """
    # What is 0 has no exponent of its own.
    first = torch.where(one.mantissa == 0, other.exponent, one.exponent)
    second = torch.where(other.mantissa == 0, first, other.exponent)
    exponent = torch.maximum(first, second)
    return ExponentPair(
        one.mantissa * _power_of_2(first - exponent) + other.mantissa * _power_of_2(second - exponent), exponent
    )


def merged(pair: ExponentPair, dim: int = -1) -> ExponentPair:
    """The sum of pairs over a dimension."""
    none = pair.mantissa == 0
    exponent = pair.exponent.masked_fill(none, -torch.inf).amax(dim=dim, keepdim=True)
    # All of them are 0.
    exponent = exponent.masked_fill(torch.isneginf(exponent), 0.0)
    total = (pair.mantissa * _power_of_2((pair.exponent - exponent).clamp(max=0.0))).sum(dim=dim)
    return ExponentPair(total, exponent.squeeze(dim))


def log_of(pair: ExponentPair) -> Float[Tensor, "*shape"]:
    """The logarithm of a pair; of a sum of exponentials it is their logsumexp.

    Example:
        >>> log_of(merged(exponent_pair(torch.tensor([100.0, 100.0]))))
        tensor(100.6931)
    """
    return pair.mantissa.log() + pair.exponent * _LOG_2_LOW + pair.exponent * _LOG_2_HIGH


def two_pass_softmax(x: Float[Tensor, "*rows classes"]) -> Float[Tensor, "*rows classes"]:
    """Softmax over the last dimension, without a pass for the maximum; NaN where every class is -inf, as torch's.

    Example:
        >>> two_pass_softmax(torch.tensor([1000.0, 1000.0, -torch.inf]))
        tensor([0.5000, 0.5000, 0.0000])
    """
    pair = exponent_pair(x)
    total = merged(pair)
    share = pair.mantissa / total.mantissa.unsqueeze(-1)
    return share * _power_of_2((pair.exponent - total.exponent.unsqueeze(-1)).clamp(max=0.0))


def _power_of_2(exponent: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    return torch.exp2(exponent)
