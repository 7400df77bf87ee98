"""Sample-dependent focal loss (FLSD-53): a larger exponent where the target is improbable."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.confidence.focal import focal_weight
from lightning_losses.losses.kinds import CrossEntropyFunction
from lightning_losses.numerics.checks import check_number
from lightning_losses.numerics.settings import Share


class FocalAdaptive(CrossEntropyFunction):
    """Sample-dependent focal loss (FLSD-53): a larger exponent where the target is improbable.

    ``-(1 - p)^γ log p`` with p the probability of the target, ``γ = gammas[0]`` where ``p < threshold`` and
    ``gammas[1]`` elsewhere; γ gets no gradient.

    Args:
        gammas: the exponents below the threshold and from it on, each at least 0.
        threshold: in [0, 1].

    Shapes:
        logits: [..., C]; target: [...] class indices.

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; a target of probabilities; exponents or a threshold out of range.

    Source:
        Mukhoti et al., 2020, "Calibrating Deep Neural Networks using Focal Loss", arXiv:2002.09437 (FLSD-53). Their
        rule for other exponents is `gamma_that_balances`.

    Example:
        >>> round(FocalAdaptive()(torch.zeros(1, 2), torch.tensor([0])).item(), 4)
        0.0866
    """

    status = "confirmed"
    evidence = "torrvision/focal_calibration"

    gammas: Sequence[float] = (5.0, 3.0)
    threshold: Share = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.gammas) != 2:
            raise ValueError(
                f"{self._identifier}: gammas={self.gammas!r} came; give two: one below the threshold, one from it on."
            )
        for gamma in self.gammas:
            check_number(self._identifier, "gammas", gamma, least=0)
        self.gammas = tuple(self.gammas)

    def of_cross_entropy(self, cross_entropy: Float[Tensor, "*rows"]) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        low, high = self.gammas
        constant = cross_entropy.detach()
        # In the precision of the values: two plain numbers would be rounded to float32.
        gamma = torch.full_like(constant, high).masked_fill((-constant).exp() < self.threshold, low)
        return focal_weight(-cross_entropy, gamma) * cross_entropy


def gamma_that_balances(probability: float) -> float:
    """The exponent at which focal loss pulls a target of this probability as hard as cross-entropy does.

    The gradient of focal loss is that of cross-entropy times ``g = (1 - p)^γ - γ p (1 - p)^(γ - 1) log p``, which is
    above 1 for smaller p: ``g(p, γ) = 1`` for the γ above 0 that is returned.

    Args:
        probability: p, above 0 and below 1/2; from 1/2 on every exponent above 0 makes the gradient smaller.

    Raises:
        ValueError: a probability out of range.

    Source:
        Mukhoti et al., 2020, arXiv:2002.09437, which writes it with Lambert's W; here the root is found by bisection.

    Example:
        >>> round(gamma_that_balances(0.2), 2), round(gamma_that_balances(0.25), 2)
        (4.85, 3.07)
    """
    check_number("gamma_that_balances", "probability", probability, above=0)
    rise = -probability * math.log(probability) / (1 - probability) if probability < 1 else 0.0
    fall = -math.log1p(-probability) if probability < 1 else math.inf
    if rise <= fall:
        raise ValueError(f"gamma_that_balances: probability={probability!r} came; give one above 0 and below 1/2.")

    def log_factor(gamma: float) -> float:
        return math.log1p(rise * gamma) - fall * gamma

    # The factor rises from 1 at γ = 0 to its maximum at γ = `low`, then falls.
    low = 1 / fall - 1 / rise
    high = 2 * low
    while log_factor(high) > 0:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if log_factor(middle) > 0 else (low, middle)
    return low
