"""Generalised Jensen-Shannon divergence of label and prediction: between cross-entropy and the absolute error."""

import math
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import CrossEntropyFunction
from lightning_losses.numerics.settings import Bound


class GJS(CrossEntropyFunction):
    """Generalised Jensen-Shannon divergence of label and prediction: between cross-entropy and the absolute error.

    ``(π KL(e || m) + (1 - π) KL(p || m)) / (-(1 - π) log(1 - π))`` with the one-hot target e, the softmax p, and
    ``m = π e + (1 - π) p``. Only p_y enters, as the other classes' terms add up to ``-(1 - p_y) log(1 - π)``: it is a
    function of cross-entropy alone. Towards π = 0 it is cross-entropy, towards 1 it is `MAEReduced`.

    Args:
        label_weight: π, at least 0.001 and at most 0.999; the larger, the more robust, and the slower.

    Shapes:
        logits: [..., C]; target: [...] class indices.

    Returns:
        A scalar, or [...] without reduction; 0 where the target has probability 1.

    Raises:
        ValueError: shapes or dtypes that do not fit; a target of probabilities; a weight outside of its range.

    Source:
        Englesson, Azizpour, 2021, "Generalized Jensen-Shannon Divergence Loss for Learning with Noisy Labels",
        arXiv:2105.04522: their JS. Their GJS adds a second prediction, of another view of the image. Implementations
        take the logarithm of no number below 1e-7; this one of any.

    Example:
        >>> round(GJS(label_weight=0.5)(torch.zeros(1, 2), torch.tensor([0])).item(), 4)
        0.6226
    """

    status = "confirmed"
    evidence = "ErikEnglesson/GJS; also Optimization-AI/ICML2023_LDR, not the authors' code"

    label_weight: Annotated[float, Bound(least=0.001, most=0.999)] = 0.5

    def of_cross_entropy(self, cross_entropy: Float[Tensor, "*rows"]) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        label, prediction, log_prediction = self.label_weight, 1 - self.label_weight, math.log1p(-self.label_weight)
        p, missing = torch.exp(-cross_entropy), -torch.expm1(-cross_entropy)
        of_label = -label * torch.log1p(-prediction * missing)
        # log(m_y / p_y); beyond 80, p_y times it is 0.
        log_ratio = torch.log1p(label * torch.expm1(cross_entropy.clamp(max=80.0)))
        of_prediction = -prediction * (p * log_ratio + missing * log_prediction)
        return (of_label + of_prediction) / (-prediction * log_prediction)
