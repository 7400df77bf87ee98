"""Checks of the diagnostics: empty points, labels for another number of samples, kernels that are not square."""

from typing import Any

from torch import Tensor

from lightning_losses.numerics.checks import check_floating


def check_points(who: str, name: str, points: Any) -> None:
    """Raise ``ValueError`` unless `points` are floating-point [n, d], with n and d of at least 1."""
    check_floating(who, name, points)
    if points.ndim != 2 or 0 in points.shape:
        raise ValueError(f"{who}: {name} of shape {list(points.shape)} came; give [samples, d], at least one of each.")


def check_labels(who: str, points: Tensor, target: Any, classes: int | None = None) -> None:
    """Raise ``ValueError`` unless `target` holds a class index for each of the points, below `classes` if given."""
    kind = getattr(target, "dtype", type(target).__name__)
    if not isinstance(target, Tensor) or target.is_floating_point() or target.shape != points.shape[:1]:
        shape = list(target.shape) if isinstance(target, Tensor) else []
        raise ValueError(
            f"{who}: a target of type {kind} and shape {shape} came for {len(points)} samples; give a class index for "
            "each."
        )
    if classes is not None and (int(target.min()) < 0 or int(target.max()) >= classes):
        raise ValueError(
            f"{who}: targets from {int(target.min())} to {int(target.max())} came for {classes} classes; give 0 to "
            f"{classes - 1}."
        )


def check_finite(who: str, name: str, values: Tensor) -> None:
    """Raise ``ValueError`` unless all `values` are finite; other values belong to no bin."""
    if not bool(values.isfinite().all()):
        raise ValueError(f"{who}: {name} holds NaN or inf, which lie in no bin; leave those samples out.")


def check_kernels(who: str, *kernels: Any) -> None:
    """Raise ``ValueError`` unless all kernels are square, for the same samples, at least one."""
    for kernel in kernels:
        check_floating(who, "kernel", kernel)
    shapes = [list(kernel.shape) for kernel in kernels]
    if len(shapes[0]) != 2 or shapes[0][0] != shapes[0][1] or 0 in shapes[0] or any(one != shapes[0] for one in shapes):
        raise ValueError(f"{who}: kernels of shapes {shapes} came; give [samples, samples], of the same samples.")
