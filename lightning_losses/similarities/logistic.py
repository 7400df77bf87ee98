"""The logistic loss of all pairs of two sets: partners match, and no others do."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.numerics.probabilities import known_finite, softplus
from lightning_losses.parallel.processes import total_of_all
from lightning_losses.similarities.derivatives import value_by_walk
from lightning_losses.similarities.powers import readable
from lightning_losses.similarities.tiles import LOG_2, Pairs, check_pairs, check_partners, tiles_of


def partner_logistic(
    rows: Float[Tensor, "batch width"],
    columns: Float[Tensor, "batch width"],
    *,
    scale: float | Float[Tensor, ""] = 1.0,
    bias: float | Float[Tensor, ""] = 0.0,
) -> Float[Tensor, ""]:
    """``(1/B) sum_ij log(1 + exp(-z_ij (scale rows_i · columns_j + bias)))``, z 1 for partners and -1 for other pairs.

    The scores of a tile are held at once, and computed once: gradients are made beside the value.

    Args:
        rows: [B, D] in float32 or float64.
        columns: [B, D]; row i's partner is column i.
        scale: a tensor gets a gradient.
        bias: a tensor gets a gradient.

    Returns:
        A scalar, 0 without a pair; differentiable once, at will for small matrices.

    Example:
        >>> partner_logistic(torch.zeros(3, 2), torch.ones(3, 2))  # 3 log 2
        tensor(2.0794)
    """
    check_pairs(rows, columns, Pairs())
    check_partners(rows, columns)
    return value_by_walk(_walk, _matrix, rows, columns, scale, bias)


def _matrix(rows: Tensor, columns: Tensor, scale: float | Tensor, bias: float | Tensor) -> Tensor:
    scores = (rows * scale) @ columns.mT + bias
    partners = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    return softplus(torch.where(partners, -scores, scores)).sum() / max(len(rows), 1)


def _walk(
    rows: Tensor, columns: Tensor, scale: float | Tensor, bias: float | Tensor, wanted: Sequence[bool]
) -> tuple[Tensor, list[Tensor | None]]:
    walk = tiles_of(rows, columns, Pairs(), scale)
    value, by_bias = rows.new_zeros(()), rows.new_zeros(())

    def scores(i: slice, j: slice) -> Tensor:
        """Minus a pair's logit, if it matches, else its logit, in units of log 2."""
        tile = walk.scores(i, j).add_(bias / LOG_2)
        if i.start == j.start:
            tile.diagonal().neg_()
        return tile

    def slopes(i: slice, j: slice) -> Tensor:
        slope = walk.memory_of(i, j, 1)
        of_tile = _plain(scores(i, j), slope) if readable(rows) else None
        if of_tile is None or not known_finite(of_tile):
            logits = scores(i, j).mul_(LOG_2)
            of_tile = softplus(logits).sum(dim=1).sum()
            torch.sigmoid(logits, out=slope)
        value.add_(of_tile)
        if i.start == j.start:
            slope.diagonal().neg_()
        if wanted[3]:
            by_bias.add_(slope.sum(dim=1).sum())
        return slope

    by_rows, by_columns = walk.gradients(slopes, (wanted[0] or wanted[2], wanted[1]))
    by_scale = torch.linalg.vecdot(rows, by_rows).sum() if by_rows is not None else None
    share = walk.share
    # The gradients of all processes will be averaged.
    factor = share.processes / len(rows)
    for gradient in (by_rows, by_columns):
        if gradient is not None:
            gradient.mul_(scale * factor)
    if share.processes > 1:
        value = total_of_all(value, share.group)
    by_numbers = (by_scale if wanted[2] else None, by_bias if wanted[3] else None)
    gradients = [by_rows if wanted[0] else None, by_columns]
    return value / len(rows), [*gradients, *(None if each is None else each * factor for each in by_numbers)]


def _plain(scores: Float[Tensor, "n m"], slope: Float[Tensor, "n m"]) -> Float[Tensor, ""]:
    """The sum of a tile's losses from powers of 2, which replace the scores; infinite where a power is; and slopes."""
    powers = scores.exp2_()
    torch.add(powers, 1.0, out=slope)
    torch.div(powers, slope, out=slope)
    # log(1 + a) + log(1 + b) = log(1 + (a + ab + b)), so that few logarithms are enough, and as exact.
    for _ in range(3):
        if powers.shape[1] % 2:
            break
        one, other = powers.chunk(2, dim=1)
        powers = one.addcmul_(one, other).add_(other)
    return powers.log1p().sum(dim=1).sum()
