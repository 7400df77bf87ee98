"""The tempered logarithm and softmax, of which the usual ones are the case at temperature 1."""

import torch
from jaxtyping import Float
from torch import Tensor

# Where exp is continued by its tangent: the sum over a batch of what a logit of 1e4 makes there is finite in float32.
_LARGEST_EXPONENT = 60.0
# Five are enough for two to 100,000 classes, temperatures from 1 to 4, and logits up to 1e4 apart, in float64.
_STEPS = 5
# Below 1 each step may leave out classes: ten were the most.
_STEPS_TO_A_SUPPORT = 12


def tempered_logarithm(log_x: Float[Tensor, "*shape"], temperature: float) -> Float[Tensor, "*shape"]:
    """``log_t x = (x^(1-t) - 1) / (1 - t)`` from log x; log x at t = 1.

    It is exact near x = 1 and near t = 1. Where ``(1 - t) log x`` exceeds 60 it goes on in a straight line, so that
    value and slope stay finite.

    Args:
        log_x: log x; -inf for x = 0.
        temperature: t, any number.

    Example:
        >>> half = torch.tensor(0.5).log()
        >>> [round(tempered_logarithm(half, t).item(), 4) for t in (0.0, 1.0, 2.0)]
        [-0.5, -0.6931, -1.0]
    """
    rate = 1 - temperature
    if rate == 0:
        return log_x
    exponent = rate * log_x
    within = torch.expm1(exponent.clamp(max=_LARGEST_EXPONENT))
    return (within + (exponent - _LARGEST_EXPONENT).clamp(min=0.0) * (within + 1)) / rate


def tempered_log_probabilities(
    logits: Float[Tensor, "*rows classes"], temperature: float
) -> Float[Tensor, "*rows classes"]:
    """``log exp_t(z_k - λ)``, with ``exp_t u = max(0, 1 + (1-t) u)^(1 / (1-t))`` and λ such that they add up to 1.

    Args:
        logits: z, with -inf for a class that has no probability.
        temperature: t, in [0, 4]. At 1 this is log-softmax; above it has heavier tails; below it gives -inf to classes
            that are far from the largest, as α-entmax of α = 2 - t does, which is this, and sparsemax at t = 0.

    Example:
        >>> logits = torch.tensor([2.0, 2.0, 0.0])
        >>> tempered_log_probabilities(logits, 2.0).exp(), tempered_log_probabilities(logits, 0.0).exp()
        (tensor([0.3904, 0.3904, 0.2192]), tensor([0.5000, 0.5000, 0.0000]))
    """
    if temperature == 1:
        return torch.log_softmax(logits, dim=-1)
    rate = 1 - temperature
    below = logits - logits.detach().amax(dim=-1, keepdim=True)

    def weighed(below: Tensor, shift: Tensor, factor: float) -> Tensor:
        """``factor log exp_t(below - shift)``; -inf where the probability is 0, also for the factor 0."""
        power = rate * (below - shift)
        without = power <= -1
        return (factor * torch.log1p(power.masked_fill(without, 0.0)) / rate).masked_fill(without, -torch.inf)

    def nearer(below: Tensor, shift: Tensor) -> Tensor:
        """Newton's step for ``log_t sum_k p_k = 0``, which from the left never passes the solution."""
        log_sum, log_slope = (
            torch.logsumexp(weighed(below, shift, factor), dim=-1, keepdim=True) for factor in (1.0, temperature)
        )
        return shift + tempered_logarithm(log_sum, temperature) * torch.exp(temperature * log_sum - log_slope)

    with torch.no_grad():
        constant = below.detach()
        shift = torch.zeros_like(constant[..., :1])
        for _ in range(_STEPS if temperature > 1 else _STEPS_TO_A_SUPPORT):
            shift = nearer(constant, shift)
    # Two steps from the solution: the first has the gradient of it, both have second derivatives too.
    return weighed(below, nearer(below, nearer(below, shift)), 1.0)
