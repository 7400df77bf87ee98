"""ArcFace: the angle to the target's vector must be smaller than the others by a margin."""

import math
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import MarginLoss
from lightning_losses.numerics.settings import Bound

Angle = Annotated[float, Bound(least=0, below=math.pi)]

# The least square of a sine: at a cosine of 1 the slope by it would be infinite.
_LEAST = 1e-12


class ArcFace(MarginLoss):
    """ArcFace: the angle to the target's vector must be smaller than the others by a margin.

    ``-log softmax(s z')_y`` with ``z'_y = cos(θ_y + m)`` of the target's angle ``θ_y = arccos z_y``, and
    ``z_y - m sin m`` where ``θ_y + m`` is above π, so that z'_y still grows with z_y. The logits z are to be cosines,
    as a `MarginHead` gives them. The margin is in radians, as in the paper: 0.5 are the 28.6 degrees that
    pytorch-metric-learning has. No arccos is taken, and gradients are finite at cosines of 1 and -1.

    Args:
        margin: m, in radians, at least 0 and below π = 3.14159; 0 is `NormalizedSoftmax` with a temperature of 1/s.
        scale: s, above 0.

    Shapes:
        logits: [..., C] cosines; target: [...] class indices.

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; a target of probabilities; options out of range.

    Warns:
        UserWarning: logits that are no cosines.

    Source:
        Deng, Guo, Xue, Zafeiriou, 2019, "ArcFace: Additive Angular Margin Loss for Deep Face Recognition",
        arXiv:1801.07698, whose m and s these are; compared with pytorch-metric-learning's.

    Example:
        >>> loss = ArcFace(margin=0.5, scale=1.0)
        >>> round(loss(torch.tensor([[1.0, 0.0]]), torch.tensor([0])).item(), 4)
        0.3477
    """

    status = "paper"
    evidence = "KevinMusgrave/pytorch-metric-learning, not the authors' code"

    margin: Angle = 0.5

    def with_margin(self, cosine: Float[Tensor, "*rows"]) -> Float[Tensor, "*rows"]:
        """What the target's cosine becomes, elementwise."""
        return with_angular_margin(cosine, self.margin)


def with_angular_margin(cosine: Float[Tensor, "*rows"], margin: float) -> Float[Tensor, "*rows"]:
    """``cos(arccos(cosine) + margin)``, and ``cosine - margin sin(margin)`` where the angle would be above π.

    Example:
        >>> with_angular_margin(torch.tensor([0.5, 0.0, -1.0]), torch.pi / 2)
        tensor([-0.8660, -1.0000, -2.5708])
    """
    # Exact near 1 and -1, where 1 - cosine² is not.
    sine = ((1 - cosine) * (1 + cosine)).clamp(min=_LEAST).sqrt()
    turned = math.cos(margin) * cosine - math.sin(margin) * sine
    return torch.where(cosine > -math.cos(margin), turned, cosine - margin * math.sin(margin))
