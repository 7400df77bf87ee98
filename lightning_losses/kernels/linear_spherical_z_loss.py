"""The spherical Z-loss of a classifier head, at a price that does not depend on how many classes it has."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_losses.kernels.inputs import check_head, check_targets
from lightning_losses.losses.classification.spherical_z_loss import SphericalZLoss, soft_hinge
from lightning_losses.numerics.probabilities import full_precision
from lightning_losses.numerics.reduction import Reduction, reduce
from lightning_losses.numerics.settings import settings

# Those of the loss, which a compiler can't construct while it traces.
_SETTINGS = settings(SphericalZLoss)


class HeadMoments(NamedTuple):
    """Mean and covariance of a head's rows: its column sum and its Gram matrix, centred, over the number of classes."""

    mean: Float[Tensor, " width"]
    covariance: Float[Tensor, "width width"]


def head_moments(weight: Float[Tensor, "vocabulary width"]) -> HeadMoments:
    """The moments of a head's rows, with gradients; half precision is widened.

    Example:
        >>> head_moments(torch.tensor([[1.0, 0.0], [3.0, 0.0]]))
        HeadMoments(mean=tensor([2., 0.]), covariance=tensor([[1., 0.],
                [0., 0.]]))
    """
    rows = full_precision(weight)
    with torch.autocast(weight.device.type, enabled=False):
        mean = rows.mean(dim=0)
        centred = rows - mean
        return HeadMoments(mean, centred.T @ centred / len(rows))


def linear_spherical_z_loss(
    hidden: Float[Tensor, "*tokens width"],
    weight: Float[Tensor, "vocabulary width"],
    target: Int[Tensor, "*tokens"],
    moments: HeadMoments | None = None,
    *,
    a: float = 0.5,
    b: float = 5.0,
    epsilon: float = 1e-6,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """`SphericalZLoss` of the logits ``hidden @ weight.T``, without making them.

    With m and C the mean and the covariance of the weight's rows, a token's logits have the mean ``m h`` and the
    variance ``h C h``, exactly. So a token costs D^2 operations, however large the vocabulary; m and C cost V D^2, once
    a step. Value and gradients are those of the logits.

    Args:
        hidden: [..., D] inputs of the head.
        weight: [V, D] the head's weight. For a bias, append it to the weight as a column, and a 1 to the hidden states.
        target: [...] int64 class indices.
        moments: those of `head_moments(weight)`, if there are already; None to compute them here. What comes without a
            gradient passes none to the weight.
        a: hardness of the hinge, above 0.
        b: how many standard deviations above the mean the target should be.
        epsilon: above 0, is added to the variance.
        ignore_index: tokens with this target are ignored.
        reduction: "mean" over the tokens that are kept, "sum", or "none".

    Returns:
        A scalar, or [...] without reduction, in float32 at least.

    Raises:
        ValueError: shapes or dtypes that do not fit; a setting outside of its range; moments of another width.

    Source:
        de Brébisson, Vincent, 2016, "The Z-loss: a Shift and Scale Invariant Classification Loss Belonging to the
        Spherical Family", arXiv:1604.08859. They also update the weight at a price that does not depend on V; here its
        gradient is a dense one.

    Example:
        >>> hidden, weight, target = torch.eye(3, 4), torch.randn(5, 4), torch.tensor([0, 1, 2])
        >>> dense = SphericalZLoss()(hidden @ weight.T, target)
        >>> torch.testing.assert_close(linear_spherical_z_loss(hidden, weight, target), dense)
    """
    name = "linear_spherical_z_loss"
    given = {"a": a, "b": b, "epsilon": epsilon, "ignore_index": ignore_index, "reduction": reduction}
    for setting in _SETTINGS:
        setting.check(name, given[setting.name])
    check_head(name, hidden, weight, target)
    kept = target != ignore_index
    _check_targets(name, target, kept, len(weight), ignore_index)
    mean, covariance = head_moments(weight) if moments is None else moments
    if mean.shape != weight.shape[1:] or covariance.shape != 2 * weight.shape[1:]:
        raise ValueError(
            f"{name}: moments of shapes {list(mean.shape)} and {list(covariance.shape)} came with weight of shape "
            f"{list(weight.shape)}; give head_moments(weight)."
        )
    with torch.autocast(hidden.device.type, enabled=False):
        rows = full_precision(hidden).masked_fill(~kept.unsqueeze(-1), 0.0)
        own = full_precision(weight[target.masked_fill(~kept, 0)])
        distance = ((own - mean) * rows).sum(dim=-1)
        variance = ((rows @ covariance) * rows).sum(dim=-1)
        return reduce(soft_hinge(distance, variance + epsilon, a, b), reduction, kept)


def _check_targets(
    name: str, target: Int[Tensor, "*tokens"], kept: Bool[Tensor, "*tokens"], vocabulary: int, ignore_index: int
) -> None:
    """`check_targets`, also while a compiler traces: the graph then can't tell which target it refuses."""
    if not torch.compiler.is_compiling():
        check_targets(name, target.flatten(), kept.flatten(), vocabulary, ignore_index)
    elif target.device.type == "cpu":
        torch._assert_async(
            (~kept | ((target >= 0) & (target < vocabulary))).all(),
            f"{name}: a target came that is no class of a vocabulary of {vocabulary}; give 0 to {vocabulary - 1}, or "
            f"ignore_index={ignore_index}.",
        )
