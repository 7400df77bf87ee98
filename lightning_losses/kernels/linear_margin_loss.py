"""A loss with margins from embeddings and class vectors, by chunks: for more classes than the cosines have room for."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.kernels.chunked_head import chunked_head, returned
from lightning_losses.kernels.inputs import check_target, check_widths
from lightning_losses.kernels.rows.head_loss import ChunkedImpl
from lightning_losses.kernels.rows.row_wise import refuses, rows_of
from lightning_losses.kernels.traced import traceable
from lightning_losses.losses.kinds import RowLoss
from lightning_losses.networks.margin_head import nearest_sub_center
from lightning_losses.numerics.checks import check_count, check_floating
from lightning_losses.numerics.derivatives import in_transform
from lightning_losses.numerics.distances import unit_rows
from lightning_losses.numerics.probabilities import full_precision
from lightning_losses.parallel.processes import whole_parameter

_NAME = "linear_margin_loss"


def linear_margin_loss(
    loss: RowLoss,
    embeddings: Float[Tensor, "*rows dim"],
    weight: Float[Tensor, "vectors dim"],
    target: Int[Tensor, "*rows"],
    *,
    sub_centers: int = 1,
    impl: ChunkedImpl = "auto",
    **options: Any,
) -> Float[Tensor, "..."]:
    """``loss(MarginHead(...)(embeddings), target)`` without ever holding the cosines of all rows with all classes.

    Both are normalised, then `chunked_head` goes by chunks of rows: three products, memory for one chunk, and gradients
    that are written by hand for `CosFace` and `ArcFace`. `NormalizedSoftmax` and `EBV` are cross-entropy at a
    temperature, and ride `linear_cross_entropy`.

    Args:
        loss: of rows of cosines: `ArcFace`, `CosFace`, `NormalizedSoftmax`, `EBV`, or another row-wise one.
        embeddings: [..., D], not normalised.
        weight: [C K, D], the `weight` of a `MarginHead`; one that FSDP2 has sharded is gathered.
        target: [...] int64 class indices.
        sub_centers: K; with more than one, chunks are evaluated by autograd.
        impl: as in `chunked_head`.
        **options: chunk, reduction, ignore_index, normalizer and others of `chunked_head`.

    Returns:
        The loss in float32 (float64 for float64).

    Raises:
        ValueError: a loss that couples the batch or takes more than logits and target; tensors that do not fit.
        RuntimeError: second derivatives, which it has not.

    Example:
        >>> from lightning_losses.losses import ArcFace
        >>> value = linear_margin_loss(ArcFace(margin=0.0), torch.eye(2), 3 * torch.eye(2), torch.tensor([0, 1]))
        >>> value.item() < 1e-6
        True
    """
    check_count(_NAME, "sub_centers", sub_centers)
    for name, tensor in (("embeddings", embeddings), ("weight", weight)):
        check_floating(_NAME, name, tensor)
    required = [name for name, needed in loss.inputs().items() if needed] if isinstance(loss, RowLoss) else []
    if refuses(loss) is None and not {"logits", "target"}.issuperset(required):
        raise ValueError(
            f"{_NAME}: {type(loss).__name__} takes {', '.join(required)}; give a loss of logits and target alone."
        )
    check_widths(_NAME, "embeddings", embeddings, weight)
    check_target(_NAME, "embeddings", embeddings, target)
    if len(weight) % sub_centers:
        raise ValueError(
            f"{_NAME}: weight of shape {list(weight.shape)} came with sub_centers={sub_centers}; give as many vectors "
            "for each class."
        )
    ignored = options.get("ignore_index")
    kept = target != (getattr(loss, "ignore_index", -100) if ignored is None else ignored)
    # An ignored row may hold NaN, which a gradient of 0 would not stop on its way through the length.
    embeddings = torch.where(kept.unsqueeze(-1), embeddings, 0.0)
    with torch.autocast(embeddings.device.type, enabled=False):
        directions = unit_rows(full_precision(embeddings))
        unit = unit_rows if in_transform() else _UnitRows.apply
        vectors: Tensor = unit(full_precision(whole_parameter(weight))).to(directions.dtype)
        if sub_centers == 1:
            return chunked_head(loss, directions, vectors, target, impl=impl, **options)
        return _of_nearest(loss, directions, vectors, target, sub_centers=sub_centers, impl=impl, **options)


@traceable(returned)
def _of_nearest(
    loss: RowLoss, hidden: Tensor, weight: Tensor, target: Tensor, *, sub_centers: int, **options: Any
) -> Tensor:
    """`chunked_head` of the largest score of each class."""
    if refusal := refuses(loss):
        raise ValueError(f"{_NAME}: {refusal}")
    settled: dict[str, Any] = {"ignore_index": loss.ignore_index, "reduction": loss.reduction, **options}
    rows = rows_of(loss, settled["ignore_index"])

    def of_classes(logits: Tensor, target: Tensor, reduction: str) -> Tensor:
        return rows(nearest_sub_center(logits, sub_centers), None, target)

    # By which errors call it.
    of_classes.__name__ = _NAME

    return chunked_head(of_classes, hidden, weight, target, **settled)


class _UnitRows(torch.autograd.Function):
    """`unit_rows` of a weight, which keeps no more than its result and makes no more than its gradient."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(weight, dim=-1, keepdim=True)
        length.masked_fill_(length == 0, torch.inf)
        rows = weight / length
        ctx.save_for_backward(rows, length)
        return rows

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            raise RuntimeError(
                f"{_NAME}: create_graph=True came, and it has first derivatives only; the loss of a MarginHead's "
                "logits has higher ones."
            )
        rows, length = ctx.saved_tensors
        along = torch.linalg.vecdot(upstream[0], rows).unsqueeze(-1)
        return torch.addcmul(upstream[0], rows, along, value=-1).div_(length)
