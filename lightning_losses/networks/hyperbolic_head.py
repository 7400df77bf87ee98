"""A classifier's head in hyperbolic space: its logits are distances from hyperplanes of the Poincaré ball."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lightning_losses.numerics.checks import check_count, check_number
from lightning_losses.numerics.poincare import hyperbolic_logits, into_ball, shortened, squared
from lightning_losses.numerics.probabilities import full_precision


class HyperbolicHead(nn.Module):
    """Multinomial logistic regression in the Poincaré ball, into which features are brought first.

    Features are cut to a length, lead from a learned point of the ball to points x, and the logit of a class is the
    signed distance of x from the class's hyperplane, times the size of its normal: `hyperbolic_logits`.

    Args:
        in_features: D.
        num_classes: C.
        curvature: c, above 0; the smaller, the more Euclidean.
        clip_radius: the length that features are cut to, above 0; None leaves them as they are.
        riemannian_gradient: the gradient by a point of the ball is multiplied by ``((1 - c |x|²) / 2)²``, as the metric
            there has it; without, it is that of the value.

    Attributes:
        normals: [C, D], of the hyperplanes, before ``1 - c |p|²`` scales them.
        offsets: [C, D], which lead from 0 to a point p of each hyperplane.
        base: [D], which leads from 0 to the point at which features begin.

    Shapes:
        features: [..., D]; returns [..., C], in float32 at least.

    Raises:
        ValueError: sizes or numbers out of range.

    Source:
        Ganea, Bécigneul, Hofmann, 2018, "Hyperbolic Neural Networks", arXiv:1805.09112, and as in the code of Hyp-OC,
        Kartik-3004/hyp-oc.

    Example:
        >>> HyperbolicHead(4, 3)(torch.zeros(2, 4)).shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        curvature: float = 0.1,
        clip_radius: float | None = 2.0,
        riemannian_gradient: bool = True,
    ) -> None:
        super().__init__()
        check_count("hyperbolic_head", "in_features", in_features)
        check_count("hyperbolic_head", "num_classes", num_classes)
        check_number("hyperbolic_head", "curvature", curvature, above=0)
        if clip_radius is not None:
            check_number("hyperbolic_head", "clip_radius", clip_radius, above=0)
        self.curvature, self.clip_radius, self.riemannian_gradient = curvature, clip_radius, riemannian_gradient
        self.normals = nn.Parameter(torch.empty(num_classes, in_features))
        self.offsets = nn.Parameter(torch.empty(num_classes, in_features))
        self.base = nn.Parameter(torch.zeros(in_features))
        for weight in (self.normals, self.offsets):
            nn.init.kaiming_uniform_(weight, a=math.sqrt(5))

    def points(self, features: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows dim"]:
        """The points of the ball that features lead to."""
        vectors = full_precision(features)
        if self.clip_radius is not None:
            vectors = shortened(vectors, self.clip_radius)
        base = into_ball(full_precision(self.base), self.curvature)
        points = into_ball(vectors, self.curvature, base)
        return with_riemannian_gradient(points, self.curvature) if self.riemannian_gradient else points

    def forward(self, features: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows classes"]:
        """The logits."""
        with torch.autocast(features.device.type, enabled=False):
            offsets = into_ball(full_precision(self.offsets), self.curvature)
            normals = full_precision(self.normals) * (1 - self.curvature * squared(offsets))
            return hyperbolic_logits(self.points(features), normals, offsets, self.curvature)


def with_riemannian_gradient(points: Float[Tensor, "*rows dim"], curvature: float) -> Float[Tensor, "*rows dim"]:
    """The points; the gradient by them is multiplied by ``((1 - c |x|²) / 2)²``."""
    factor = ((1 - curvature * squared(points.detach())) / 2).square()
    return points.detach() + factor * (points - points.detach())
