"""Probabilities of logits, in log-space and in full precision."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

# What the logarithm of a probability of 0 counts as where it would make a value infinite; torch's binary cross-entropy
# takes the same number.
LOG_OF_ZERO = -100.0


def full_precision(tensor: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Half-precision tensors as float32; float32 and float64 as they are."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def softplus(value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """``log(1 + exp(x))``, exact to the last digits of float64 also where torch's own takes x for it.

    Example:
        >>> softplus(torch.tensor([-torch.inf, 0.0, 25.0], dtype=torch.float64))
        tensor([ 0.0000,  0.6931, 25.0000], dtype=torch.float64)
    """
    # From here on, x and log(1 + exp(x)) are equal in float64.
    return functional.softplus(value, threshold=40.0)


def known_everywhere(condition: Bool[Tensor, "..."]) -> bool:
    """Whether a condition holds throughout, if that can be known for free; else False.

    To know it lets a loss leave out masks that would mask nothing. It is free on the CPU outside of compiled code; a
    device would have to be waited for.

    Example:
        >>> known_everywhere(torch.tensor([True, True])), known_everywhere(torch.tensor([True, False]))
        (True, False)
    """
    return _read(condition.device, condition.all) == 1


def known_somewhere(condition: Bool[Tensor, "..."]) -> bool:
    """Whether a condition holds anywhere, if that can be known for free (as `known_everywhere`); else False.

    Example:
        >>> known_somewhere(torch.tensor([True, False])), known_somewhere(torch.tensor([False, False]))
        (True, False)
    """
    return _read(condition.device, condition.any) == 1


def known_finite(values: Float[Tensor, "..."]) -> bool:
    """Whether all values are finite, if that can be known for free (as `known_everywhere`); else False.

    Example:
        >>> known_finite(torch.tensor([1.0, 2.0])), known_finite(torch.tensor([1.0, torch.nan]))
        (True, False)
    """
    # A sum that overflows is no harm: what follows is the masked form.
    number = _read(values.device, values.detach().sum)
    return number is not None and math.isfinite(number)


def _read(device: torch.device, number: Callable[[], Tensor]) -> float | None:
    if device.type != "cpu" or torch.compiler.is_compiling():
        return None
    try:
        return float(number())
    except RuntimeError:  # under vmap, and of fake tensors, a value can't be read
        return None


def log_probabilities(
    logits: Float[Tensor, "*rows classes"], temperature: float = 1.0
) -> Float[Tensor, "*rows classes"]:
    """``log softmax(logits / temperature)`` over the last dimension."""
    return torch.log_softmax(logits if temperature == 1.0 else logits / temperature, dim=-1)


def finite_logarithms(log_p: Float[Tensor, "*rows classes"]) -> Float[Tensor, "*rows classes"]:
    """Log-probabilities with -100, a constant, for each -inf; NaN and +inf stay.

    Example:
        >>> finite_logarithms(torch.tensor([0.0, -torch.inf, torch.nan]))
        tensor([   0., -100.,   nan])
    """
    return log_p.masked_fill(torch.isneginf(log_p), LOG_OF_ZERO)


def log_total(logits: Float[Tensor, "*rows classes"]) -> Float[Tensor, "*rows 1"]:
    """``log sum_k exp logits_k``; -inf, with zero gradients, where every class is masked.

    Example:
        >>> log_total(torch.tensor([[0.0, 0.0], [-torch.inf, -torch.inf]])).exp()
        tensor([[2.],
                [0.]])
    """
    # torch's own has a NaN gradient there, which even a zero gradient from above would not stop.
    none = _masked_throughout(logits)
    if none is None:
        return torch.logsumexp(logits, dim=-1, keepdim=True)
    return torch.logsumexp(logits.masked_fill(none, 0.0), dim=-1, keepdim=True).masked_fill(none, -torch.inf)


def log_probabilities_within(
    logits: Float[Tensor, "*rows part"], temperature: float = 1.0
) -> Float[Tensor, "*rows part"]:
    """`log_probabilities` over a part of the classes: -inf, with zero gradients, where a row has none of them.

    Example:
        >>> log_probabilities_within(torch.tensor([[0.0, -torch.inf], [-torch.inf, -torch.inf]]))
        tensor([[0., -inf],
                [-inf, -inf]])
    """
    none = _masked_throughout(logits)
    if none is None:
        return log_probabilities(logits, temperature)
    return log_probabilities(logits.masked_fill(none, 0.0), temperature).masked_fill(none, -torch.inf)


def _masked_throughout(logits: Float[Tensor, "*rows classes"]) -> Bool[Tensor, "*rows 1"] | None:
    """The rows all of whose classes are masked; None if it is known that there are none."""
    none = torch.isneginf(logits.detach().amax(dim=-1, keepdim=True))
    return None if known_everywhere(~none) else none


def probabilities(logits: Float[Tensor, "*rows classes"], temperature: float = 1.0) -> Float[Tensor, "*rows classes"]:
    """``softmax(logits / temperature)`` over the last dimension."""
    return torch.softmax(logits if temperature == 1.0 else logits / temperature, dim=-1)


def log1mexp(log_p: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """``log(1 - p)`` from ``log p``, exact near both ends; -inf at p = 1.

    Example:
        >>> log1mexp(torch.tensor([0.5, 0.8]).log())
        tensor([-0.6931, -1.6094])
    """
    likely = log_p > -math.log(2)
    # Each form is evaluated where it is exact, and elsewhere at a number that can't harm the gradient.
    near_one = torch.log(-torch.expm1(log_p.masked_fill(~likely, -0.5)))
    near_zero = torch.log1p(-torch.exp(log_p.masked_fill(likely, -1.0)))
    return torch.where(likely, near_one, near_zero)


def log_odds(log_p: Float[Tensor, "..."], most: float = -1e-6) -> Float[Tensor, "..."]:
    """``log(p / (1 - p))`` from ``log p``, which is taken to be at most `most`, so that the odds are finite.

    Example:
        >>> log_odds(torch.tensor([0.5, 0.8]).log())
        tensor([0.0000, 1.3863])
    """
    log_p = log_p.clamp(max=most)
    return log_p - log1mexp(log_p)


def log_mean(
    p: Float[Tensor, "*rows classes"], q: Float[Tensor, "*rows classes"], weight: float
) -> Float[Tensor, "*rows classes"]:
    """``log(weight p + (1 - weight) q)`` of probabilities, for a weight in (0, 1); finite, also where both are 0.

    Under a sum weighted by `p` or `q` it does for `log_mixture`, and costs less: where both underflow, so do the
    weights.
    """
    return (weight * p).add_(q, alpha=1 - weight).add_(torch.finfo(p.dtype).tiny).log()


def log_mixture(
    log_p: Float[Tensor, "*rows classes"], log_q: Float[Tensor, "*rows classes"], weight: float
) -> Float[Tensor, "*rows classes"]:
    """``log(weight p + (1 - weight) q)``, for a weight in [0, 1]; -inf where both are."""
    if weight in (0, 1):
        return log_p if weight == 1 else log_q
    # logaddexp of two -inf has a NaN gradient, which even a zero gradient from above would not stop.
    neither = torch.isneginf(log_p) & torch.isneginf(log_q)
    mixed = torch.logaddexp(
        log_p.masked_fill(neither, 0.0) + math.log(weight), log_q.masked_fill(neither, 0.0) + math.log1p(-weight)
    )
    return mixed.masked_fill(neither, -torch.inf)
