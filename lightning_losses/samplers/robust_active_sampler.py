"""Robust active distillation: chooses the samples to ask a teacher about that errs on some of them."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.numerics.checks import check_floating
from lightning_losses.numerics.probabilities import full_precision


class QueryDistribution(NamedTuple):
    """The probability of querying each sample, the guaranteed gain, and the number of samples that can be queried."""

    probabilities: Float[Tensor, " n"]
    value: Float[Tensor, ""]
    support: int


def robust_active_distribution(gain: Float[Tensor, " n"], num_errors: int) -> QueryDistribution:
    """The distribution with the largest gain if the teacher is wrong on the `num_errors` most harmful samples.

    Maximises ``sum_i q_i g_i`` without its `num_errors` largest terms. Each of the k samples of largest gain gets a
    probability proportional to the inverse of its gain. So their terms are equal, and the value is ``(k - num_errors) /
    sum_j 1 / g_j``; the best k is used.

    Args:
        gain: [n] the value of a right answer, above 0; for instance one minus the margin of the student's two largest
            probabilities.
        num_errors: number of samples on which the teacher may be wrong, at least 0. From n on nothing can be gained,
            and the distribution is uniform.

    Raises:
        ValueError: gains of 0 or less, or with another shape; a num_errors below 0.

    Source:
        Baykal, Trinh, Iliopoulos, Menghani, Vee, 2023, "Robust Active Distillation", arXiv:2210.01213. Derived from
        the abstract's description of the game, not from the paper's algorithm.

    Example:
        >>> robust_active_distribution(torch.tensor([2.0, 1.0]), num_errors=1).probabilities.round(decimals=3)
        tensor([0.3330, 0.6670])
    """
    check_floating("robust_active_sampler", "gain", gain)
    if gain.ndim != 1 or len(gain) == 0 or not bool(((gain > 0) & gain.isfinite()).all()):
        raise ValueError(
            f"robust_active_sampler: gain of shape {list(gain.shape)} came; give [n] finite numbers above 0, "
            "without samples that gain nothing."
        )
    if not isinstance(num_errors, int) or isinstance(num_errors, bool) or num_errors < 0:
        raise ValueError(f"robust_active_sampler: num_errors={num_errors!r} came; give a whole number of at least 0.")
    gain = full_precision(gain)
    if num_errors >= len(gain):
        return QueryDistribution(torch.full_like(gain, 1 / len(gain)), gain.new_zeros(()), len(gain))
    inverse, order = (1 / gain).sort()
    masses = inverse.cumsum(dim=0)
    counts = torch.arange(1, len(gain) + 1, dtype=gain.dtype, device=gain.device)
    values = (counts - num_errors) / masses
    support = int(values.argmax()) + 1
    probabilities = torch.zeros_like(gain)
    probabilities[order[:support]] = inverse[:support] / masses[support - 1]
    return QueryDistribution(probabilities, values[support - 1], support)
