"""The similarity of two kernels, or of two representations of the same samples."""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.diagnostics.checks import check_kernels, check_points
from lightning_losses.numerics.probabilities import full_precision


def kernel_alignment(
    kernel: Float[Tensor, "samples samples"], other: Float[Tensor, "samples samples"], *, centred: bool = True
) -> Float[Tensor, ""]:
    """The cosine of two kernel matrices: 1 if one is a positive multiple of the other.

    Args:
        kernel: [n, n] symmetric.
        other: [n, n] symmetric.
        centred: whether rows and columns of both are centred first (CKA). A kernel of 0 gives 0.

    Source:
        Cortes, Mohri, Rostamizadeh, 2012, "Algorithms for Learning Kernels Based on Centered Alignment",
        arXiv:1203.0550.

    Example:
        >>> round(kernel_alignment(torch.eye(3), 5 * torch.eye(3)).item(), 4)
        1.0
    """
    check_kernels("kernel_alignment", kernel, other)
    kernel, other = _divided(kernel, kernel), _divided(other, other)
    if centred:
        kernel, other = double_centred(kernel), double_centred(other)
    return _cosine((kernel * other).sum(), kernel.norm(), other.norm())


def double_centred(kernel: Float[Tensor, "samples samples"]) -> Float[Tensor, "samples samples"]:
    """The kernel of the centred features: ``H K H`` with ``H = I - 1/n``."""
    rows = kernel - kernel.mean(dim=0, keepdim=True)
    return rows - rows.mean(dim=1, keepdim=True)


def label_alignment(
    kernel: Float[Tensor, "samples samples"], labels: Float[Tensor, "samples outputs"], *, centred: bool = True
) -> Float[Tensor, ""]:
    """The alignment of a kernel with that of the labels, ``Y Yᵀ``.

    Example:
        >>> round(label_alignment(torch.eye(2), torch.tensor([[1.0], [-1.0]])).item(), 4)
        1.0
    """
    check_points("label_alignment", "labels", labels)
    return kernel_alignment(kernel, labels @ labels.T, centred=centred)


def one_sided_alignment(
    kernel: Float[Tensor, "samples samples"], labels: Float[Tensor, " samples"]
) -> Float[Tensor, ""]:
    """The alignment with centred labels, with the kernel centred over its columns only.

    ``yᵀ K y / (|K| |y|²)``, as in the code of Kumar et al., 2023, arXiv:2310.06110; `label_alignment` centres both
    sides, as in CKA.

    Example:
        >>> round(one_sided_alignment(torch.eye(2), torch.tensor([1.0, -1.0])).item(), 4)
        1.0
    """
    check_kernels("one_sided_alignment", kernel)
    if labels.shape != kernel.shape[:1]:
        raise ValueError(
            f"one_sided_alignment: labels of shape {list(labels.shape)} came with a kernel of shape "
            f"{list(kernel.shape)}; give a number for each sample."
        )
    kernel = _divided(kernel, kernel)
    y = (full_precision(labels) - full_precision(labels).mean()).to(kernel.dtype)
    rows = kernel - kernel.mean(dim=0, keepdim=True)
    return _cosine(y @ rows @ y, rows.norm(), y.square().sum())


def kernel_distance(
    kernel: Float[Tensor, "samples samples"], start: Float[Tensor, "samples samples"]
) -> Float[Tensor, ""]:
    """``|K - K₀| / |K₀|``: 0 for lazy training; infinite if K₀ is 0 and K is not.

    Example:
        >>> kernel_distance(2 * torch.eye(3), torch.eye(3)).item()
        1.0
    """
    check_kernels("kernel_distance", kernel, start)
    moved = _divided(kernel - start, start).norm()
    return torch.where(moved == 0, 0.0, moved / _divided(start, start).norm())


def effective_rank(kernel: Float[Tensor, "samples samples"]) -> Float[Tensor, ""]:
    """The exponential of the entropy of the normalised eigenvalues: n for the identity, 1 for a rank of one, 0 for 0.

    Example:
        >>> round(effective_rank(torch.eye(4)).item(), 4)
        4.0
    """
    check_kernels("effective_rank", kernel)
    if not bool(kernel.isfinite().all()):
        return kernel.new_tensor(torch.nan)
    values = torch.linalg.eigvalsh(full_precision(kernel)).clamp(min=0)
    shares = values / values.sum().clamp(min=torch.finfo(values.dtype).tiny)
    return torch.where(values.sum() > 0, torch.special.entr(shares).sum().exp(), 0.0)


def linear_cka(features: Float[Tensor, "samples d"], others: Float[Tensor, "samples e"]) -> Float[Tensor, ""]:
    """Linear centred kernel alignment of two representations of the same samples, without the n by n kernels.

    ``|Yᵀ X|² / (|Xᵀ X| |Yᵀ Y|)`` with centred columns, in float64. Rotations and scales don't matter; constant features
    give 0.

    Source:
        Kornblith, Norouzi, Lee, Hinton, 2019, "Similarity of Neural Network Representations Revisited",
        arXiv:1905.00414.

    Example:
        >>> x = torch.tensor([[0.0, 1.0], [2.0, 0.0], [1.0, 5.0]])
        >>> round(linear_cka(x, -3 * x).item(), 6)
        1.0
    """
    for name, part in (("features", features), ("others", others)):
        check_points("linear_cka", name, part)
    if len(features) != len(others):
        raise ValueError(
            f"linear_cka: representations of {len(features)} and {len(others)} samples came; give the same twice."
        )
    x, y = centred_points(features), centred_points(others)
    return _cosine((y.T @ x).square().sum(), (x.T @ x).norm(), (y.T @ y).norm())


def centred_points(points: Float[Tensor, "samples d"]) -> Float[Tensor, "samples d"]:
    """Points about their mean, in float64; equal ones are exactly 0, which their mean alone may miss by its rounding.

    Example:
        >>> centred_points(torch.full((3, 1), 0.1, dtype=torch.float64)).tolist()
        [[0.0], [0.0], [0.0]]
    """
    x = points.double() - points[:1].double()
    return x - x.mean(dim=0)


def _divided(kernel: Tensor, by: Tensor) -> Tensor:
    """A kernel in units of another's largest entry: squares neither over- nor underflow, equal entries centre to 0."""
    largest = full_precision(by).abs().amax()
    return full_precision(kernel) / torch.where(largest == 0, 1.0, largest)


def _cosine(product: Tensor, left: Tensor, right: Tensor) -> Tensor:
    sizes = left * right
    # NaN stays NaN.
    return torch.where(sizes == 0, 0.0, product / torch.where(sizes == 0, 1.0, sizes))
