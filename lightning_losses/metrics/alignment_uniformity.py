"""How embeddings lie on the sphere: alignment of positive pairs, uniformity, and tolerance of samples of a class."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.metrics.embedding_rows import checked_directions, class_of_each
from lightning_losses.numerics.checks import check_floating, check_number
from lightning_losses.numerics.distances import unit_rows
from lightning_losses.numerics.probabilities import full_precision
from lightning_losses.similarities import similarity_logsumexp


def alignment(
    embeddings: Float[Tensor, "batch d"], embeddings_b: Float[Tensor, "batch d"], *, power: float = 2.0
) -> Float[Tensor, ""]:
    """The mean distance of two views of the same samples on the sphere: ``mean |x - y|^α``; 0 where they agree.

    Args:
        embeddings: [B, D]; scaled to length 1 here.
        embeddings_b: [B, D] a second view.
        power: α, at least 1.

    Returns:
        A scalar, differentiable; from 0 to 2^α.

    Raises:
        ValueError: shapes or dtypes that do not fit; no samples; an α below 1.

    Source:
        Wang, Isola, 2020, "Understanding Contrastive Representation Learning through Alignment and Uniformity on the
        Hypersphere", arXiv:2005.10242, and its code ssnl/align_uniform.

    Example:
        >>> alignment(torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 1.0]])).item()
        2.0
    """
    check_number("alignment", "power", power, least=1)
    _check("alignment", "embeddings", embeddings)
    _check("alignment", "embeddings_b", embeddings_b)
    if embeddings.shape != embeddings_b.shape:
        raise ValueError(
            f"alignment: embeddings of shape {list(embeddings.shape)} came with embeddings_b of shape "
            f"{list(embeddings_b.shape)}; give [batch, d] twice."
        )
    apart = _directions(embeddings) - _directions(embeddings_b)
    squared = apart.square().sum(dim=1)
    return (squared if power == 2 else apart.norm(dim=1).pow(power)).mean()


def uniformity(embeddings: Float[Tensor, "batch d"], *, t: float = 2.0) -> Float[Tensor, ""]:
    """How evenly embeddings cover the sphere: ``log mean_{i != j} exp(-t |x_i - x_j|²)``, lower for more evenly.

    A large batch is computed in tiles: memory grows with the batch alone, time with its square. It then has first
    derivatives only.

    Args:
        embeddings: [B, D], B at least 2; scaled to length 1 here.
        t: above 0.

    Returns:
        A scalar, differentiable; 0 where all embeddings are equal, at least -4 t.

    Raises:
        ValueError: another shape or dtype; fewer than two samples; a t of 0 or less.

    Source:
        Wang, Isola, 2020, arXiv:2005.10242, and its code ssnl/align_uniform.

    Example:
        >>> round(uniformity(torch.tensor([[2.0, 0.0], [-1.0, 0.0]])).item(), 4)
        -8.0
    """
    check_number("uniformity", "t", t, above=0)
    _check("uniformity", "embeddings", embeddings)
    if len(embeddings) < 2:
        raise ValueError("uniformity: one embedding came; give at least two.")
    unit = _directions(embeddings)
    with torch.autocast(unit.device.type, enabled=False):
        # -t |x_i - x_j|² = 2 t x_i · x_j - t |x_j|² - t |x_i|², the second by one more column.
        own = -t * unit.square().sum(dim=1, keepdim=True)
        rows, columns = torch.cat([2 * t * unit, torch.ones_like(own)], dim=1), torch.cat([unit, own], dim=1)
        of_rows = similarity_logsumexp(rows, columns, diagonal=False) + own.squeeze(1)
    # As a tensor: a compiler would take the logarithm of a number for each size of a batch anew.
    pairs = torch.full_like(of_rows[0], len(unit) * (len(unit) - 1))
    return of_rows.logsumexp(dim=0) - pairs.log()


@torch.no_grad()
def tolerance(
    embeddings: Float[Tensor, "samples d"],
    target: Int[Tensor, " samples"],
    *,
    exclude_self: bool = False,
    conditional: bool = False,
) -> Float[Tensor, ""]:
    """How near samples of a class lie: the mean over all pairs of ``x_i · x_j [y_i = y_j]``.

    It rises with the share of pairs of one class, unless it is conditional on that. In float64, by sums over classes:
    no pair is formed.

    Args:
        embeddings: [n, d]; scaled to length 1 here.
        target: [n] class indices.
        exclude_self: whether to leave out the pairs of a sample with itself.
        conditional: whether to take the mean over the pairs of one class instead of all.

    Returns:
        A scalar; NaN without pairs, and where embeddings hold NaN or infinity.

    Raises:
        ValueError: shapes that do not fit.

    Source:
        Wang, Liu, 2021, "Understanding the Behaviour of Contrastive Loss", arXiv:2012.09740, which takes all pairs.

    Example:
        >>> tolerance(torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0, 1]), conditional=True)
        tensor(1., dtype=torch.float64)
    """
    unit = checked_directions("tolerance", "embeddings", embeddings)
    target = class_of_each("tolerance", "target", embeddings, target)
    names, label, count = torch.unique(target, return_inverse=True, return_counts=True)
    sums = unit.new_zeros(len(names), unit.shape[1]).index_add_(0, label, unit)
    total, n = sums.square().sum(), len(unit)
    pairs = count.square().sum().double() if conditional else unit.new_tensor(float(n * n))
    if exclude_self:
        total, pairs = total - unit.square().sum(), pairs - n
    return total / pairs


def _check(who: str, name: str, embeddings: Tensor) -> None:
    check_floating(who, name, embeddings)
    if embeddings.ndim != 2 or 0 in embeddings.shape:
        raise ValueError(
            f"{who}: {name} of shape {list(embeddings.shape)} came; give [batch, d], at least one of each."
        )


def _directions(embeddings: Tensor) -> Tensor:
    return unit_rows(full_precision(embeddings))
