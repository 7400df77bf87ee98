"""The spectrum of a loss's Hessian from products with vectors: extreme eigenvalues, trace, density."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.numerics.checks import check_count

Product = Callable[[Float[Tensor, " size"]], Float[Tensor, " size"]]


def hessian_product(loss: Float[Tensor, ""], parameters: Sequence[Tensor]) -> Product:
    """A function that multiplies the loss's Hessian by a flat vector, with one backward pass per product.

    The parameters' gradients are not changed. The network must be twice differentiable: fused attention and fused
    cross-entropy are not; use their plain implementations for the probe.

    Args:
        loss: a scalar with its graph.
        parameters: the parameters to differentiate by; those that the loss doesn't depend on give 0.

    Example:
        >>> weight = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> hessian_product((weight**3).sum(), [weight])(torch.tensor([1.0, 1.0]))
        tensor([ 6., 12.])
    """
    gradients = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True, materialize_grads=True)
    shapes = [parameter.shape for parameter in parameters]
    sizes = [parameter.numel() for parameter in parameters]

    def product(vector: Tensor) -> Tensor:
        pieces = [piece.reshape(shape) for piece, shape in zip(torch.split(vector, sizes), shapes, strict=True)]
        products = torch.autograd.grad(
            gradients, parameters, grad_outputs=pieces, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        return torch.cat([piece.flatten() for piece in products]).detach()

    return product


class Spectrum(NamedTuple):
    """Ritz values, ascending, and their weights, which add up to 1: Lanczos' estimate of the spectral density."""

    values: Float[Tensor, " steps"]
    weights: Float[Tensor, " steps"]


@torch.no_grad()
def lanczos(
    product: Product,
    size: int,
    *,
    steps: int = 30,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Spectrum:
    """The extreme eigenvalues and the density of a symmetric operator, by Lanczos with full re-orthogonalisation.

    The outermost Ritz values converge first: if the largest and the smallest eigenvalue are well separated, a few dozen
    steps give them to full precision; as many steps as dimensions give all. The largest eigenvalue is meant with its
    sign, unlike in power iteration.

    Args:
        product: the operator.
        size: its dimension; `steps` vectors of this size are stored.
        steps: the largest number of products; it stops earlier if the Krylov space is exhausted.
        generator: draws the starting vector, on the CPU.
        dtype: dtype of the vectors.
        device: device of the vectors.

    Returns:
        All NaN where a product is not finite.

    Raises:
        ValueError: fewer than 1 step or dimension.

    Source:
        Yao, Gholami, Keutzer, Mahoney, 2020, "PyHessian: Neural Networks Through the Lens of the Hessian",
        arXiv:1912.07145, for its use on networks.

    Example:
        >>> values = lanczos(lambda v: torch.tensor([3.0, -1.0]) * v, 2).values
        >>> [round(value, 4) for value in values.tolist()]
        [-1.0, 3.0]
    """
    check_count("lanczos", "size", size)
    check_count("lanczos", "steps", steps)
    vector = torch.randn(size, generator=generator, dtype=torch.float64).to(device, dtype)
    basis = [vector / vector.norm()]
    diagonal: list[float] = []
    beside: list[float] = []
    for _ in range(min(steps, size)):
        image = product(basis[-1])
        diagonal.append(float(image @ basis[-1]))
        rest = image
        # Twice, because rounding in the first pass leaves a remainder.
        for _ in range(2):
            held = torch.stack(basis)
            rest = rest - held.T @ (held @ rest)
        length = float(rest.norm())
        scale = max(map(abs, [*diagonal, *beside]))
        if not length > 10 * torch.finfo(dtype).eps * scale or len(diagonal) == min(steps, size):
            break
        beside.append(length)
        basis.append(rest / length)
    matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    if beside:
        matrix += torch.diag(torch.tensor(beside, dtype=torch.float64), 1)
        matrix += torch.diag(torch.tensor(beside, dtype=torch.float64), -1)
    if not bool(matrix.isfinite().all()):
        unknown = torch.full((len(matrix),), torch.nan, dtype=torch.float64)
        return Spectrum(unknown, unknown.clone())
    values, vectors = torch.linalg.eigh(matrix)
    return Spectrum(values, vectors[0].square())


class Estimate(NamedTuple):
    """A mean over random probes and its standard error (NaN for one probe, 0 if it is exact)."""

    value: float
    error: float


@torch.no_grad()
def hutchinson(
    product: Product,
    size: int,
    *,
    probes: int | None = 20,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> tuple[Estimate, Estimate]:
    """The trace of a symmetric operator, and the square of its Frobenius norm.

    ``E[vᵀ H v]`` and ``E[|H v|²]`` over v with entries ±1.

    Args:
        product: the operator.
        size: its dimension.
        probes: number of random vectors; None uses all unit vectors, which is exact and costs `size` products.
        generator: draws the vectors, on the CPU.
        dtype: dtype of the vectors.
        device: device of the vectors.

    Raises:
        ValueError: fewer than 1 probe.

    Example:
        >>> hutchinson(lambda v: torch.tensor([3.0, -1.0]) * v, 2, probes=None)[0].value
        2.0
    """
    check_count("hutchinson", "size", size)
    traces, squares = [], []
    if probes is None:
        for position in range(size):
            vector = torch.zeros(size, dtype=dtype, device=device)
            vector[position] = 1
            image = product(vector)
            traces.append(float(image[position]))
            squares.append(float(image.square().sum()))
        return Estimate(sum(traces), 0.0), Estimate(sum(squares), 0.0)
    check_count("hutchinson", "probes", probes)
    for _ in range(probes):
        signs = torch.randint(2, (size,), generator=generator) * 2 - 1
        vector = signs.to(device, dtype)
        image = product(vector)
        traces.append(float(vector @ image))
        squares.append(float(image.square().sum()))
    return _mean(traces), _mean(squares)


def _mean(values: list[float]) -> Estimate:
    samples = torch.tensor(values, dtype=torch.float64)
    error = (samples.std() / len(samples) ** 0.5).item() if len(samples) > 1 else float("nan")
    return Estimate(samples.mean().item(), error)
