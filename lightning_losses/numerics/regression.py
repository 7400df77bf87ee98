"""A regression's numbers beside what is predicted of them: checked, in full precision, never broadcast."""

from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from lightning_losses.numerics.checks import check_tensor, debugging
from lightning_losses.numerics.probabilities import full_precision, known_somewhere


def regression_values(
    loss: str, regression_target: Float[Tensor, "*values"], last: str = "", **predicted: Float[Tensor, "..."]
) -> tuple[Tensor, ...]:
    """The target without gradient, then the predictions, in the precision of the first prediction, at least float32.

    Args:
        loss: the name that errors begin with.
        regression_target: [...] floating-point numbers.
        last: what the predictions have in a further, last dimension, such as "M"; empty where they have the target's
            shape.
        **predicted: what the network says of each number, by name.

    Raises:
        ValueError: no tensors, dtypes that are not floating-point, other shapes. Nothing is broadcast: [N, 1] against
            [N] would compare every prediction with every target.

    Example:
        >>> import torch
        >>> regression_values("demo", torch.zeros(2), mean=torch.zeros(2, 1))
        Traceback (most recent call last):
        ValueError: demo: mean of shape [2, 1] came with regression_target of shape [2]; give mean of shape [2].
    """
    check_real(loss, "regression_target", regression_target)
    shape = list(regression_target.shape)
    for name, tensor in predicted.items():
        check_real(loss, name, tensor)
        dims = tensor.shape[:-1] if last else tensor.shape
        if list(dims) != shape or (last and tensor.ndim == 0) or (last and tensor.shape[-1] == 0):
            wanted = f"[{', '.join(map(str, [*shape, last] if last else shape))}]"
            raise ValueError(
                f"{loss}: {name} of shape {list(tensor.shape)} came with regression_target of shape {shape}; give "
                f"{name} of shape {wanted}."
            )
    values = [full_precision(tensor) for tensor in predicted.values()]
    return full_precision(regression_target.detach()).to(values[0].dtype), *values


def check_real(loss: str, name: str, given: Any) -> None:
    """Raise ``ValueError`` unless `given` is a tensor of floating-point numbers with a dimension for the samples."""
    check_tensor(loss, name, given)
    if not given.is_floating_point():
        raise ValueError(
            f"{loss}: {name} has dtype {given.dtype}; give floating-point numbers, such as {name}.float()."
        )
    if given.ndim == 0:
        raise ValueError(f"{loss}: {name} of shape [] came; give a number for each sample, [B] or [B, D].")


def refuse_where(
    wrong: Bool[Tensor, "*shape"], loss: str, name: str, given: Float[Tensor, "*shape"], told: str
) -> None:
    """Raise ``ValueError`` where numbers are wrong, on the CPU and under `debug`; NaN is left to the value.

    Example:
        >>> import torch
        >>> refuse_where(torch.tensor([True]), "demo", "variance", torch.tensor([-1.0]), "above 0")
        Traceback (most recent call last):
        ValueError: demo: variance holds -1; give numbers above 0.
    """
    if known_somewhere(wrong) or (debugging() and bool(wrong.any())):
        raise ValueError(f"{loss}: {name} holds {float(given.detach()[wrong][0]):g}; give numbers {told}.")
