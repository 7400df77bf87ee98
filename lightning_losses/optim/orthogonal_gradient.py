"""The orthogonal gradient (perpGrad): the part of a gradient that does not merely rescale the weights."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from lightning_losses.numerics.checks import check_choice
from lightning_losses.numerics.probabilities import full_precision
from lightning_losses.parallel.sharding import local_part, whole_dots

Scope = Literal["tensor", "model"]


@torch.no_grad()
def orthogonalize_gradients_(
    weights: Sequence[Tensor], gradients: Sequence[Tensor], *, scope: Scope = "tensor", rescale: bool = True
) -> None:
    """Remove from gradients, in place, their component along the weights.

    ``g⊥ = g - (<w, g> / <w, w>) w``, rescaled to ``|g|`` if asked. If the weights' norm is 0, the gradient is not
    changed. In scope "tensor", tensors of one element are not changed either, because nothing is orthogonal to them.

    Args:
        weights: n tensors; under FSDP2 inner products are over the whole tensors.
        gradients: n tensors of the same shapes, changed in place.
        scope: "tensor" projects each tensor on its own; "model" projects their concatenation.
        rescale: whether the result is scaled to the original norm. A gradient that is parallel to the weights, up to
            rounding, becomes 0 instead, because rescaling would amplify rounding errors.

    Raises:
        ValueError: unequal numbers or shapes of weights and gradients; an unknown scope; a sparse gradient.

    Source:
        Prieto, Barsbey, Mediano, Birdal, 2025, "Grokking at the Edge of Numerical Stability", arXiv:2501.04697,
        equations 11 and 12. The rescaling per tensor is in the released code, not in the equations; that code also
        rescales the rounding errors of parallel gradients.

    Example:
        >>> weight, gradient = torch.tensor([1.0, 0.0]), torch.tensor([3.0, 4.0])
        >>> orthogonalize_gradients_([weight], [gradient])
        >>> gradient
        tensor([0., 5.])
    """
    check_choice("orthogonal_gradient", "scope", scope, Scope)
    _check_pairs(weights, gradients)
    if scope == "tensor":
        pairs = [(w, g) for w, g in zip(weights, gradients, strict=True) if w.numel() > 1]
        weights, gradients = [w for w, _ in pairs], [g for _, g in pairs]
    if not gradients:
        return
    products = whole_dots([*weights, *weights], [*gradients, *weights])
    along, size = (_over_scope(part, scope) for part in products.chunk(2))
    before = _over_scope(whole_dots(gradients, gradients), scope)
    coefficients = torch.where(size > 0, along / size, 0.0)
    for weight, gradient, coefficient in zip(weights, gradients, coefficients.unbind(), strict=True):
        shard = local_part(gradient)
        projected = full_precision(shard) - coefficient.to(full_precision(shard)) * full_precision(local_part(weight))
        shard.copy_(projected)
    after = _over_scope(whole_dots(gradients, gradients), scope)
    # The size of rounding errors relative to the gradient, filled in on the device, which nobody waits for.
    floor = torch.stack([after.new_full((), 4 * torch.finfo(gradient.dtype).eps) for gradient in gradients])
    ratio = (before / torch.where(after > 0, after, 1.0)).sqrt()
    remains = after.sqrt() > floor * before.sqrt()
    scale = torch.where(remains, ratio if rescale else torch.ones_like(ratio), 0.0)
    # The gradient of weights that are 0 was not changed, and must not be rounded again.
    scale = torch.where(size > 0, scale, 1.0)
    for gradient, factor in zip(gradients, scale.unbind(), strict=True):
        shard = local_part(gradient)
        shard.copy_(full_precision(shard) * factor.to(full_precision(shard)))


def with_orthogonal_gradients(
    optimizer: Optimizer,
    *,
    scope: Scope = "tensor",
    rescale: bool = True,
    select: Callable[[Tensor], bool] = lambda parameter: True,
) -> Optimizer:
    """Make an optimizer orthogonalise its gradients before every step, for loops without Lightning.

    The optimizer stays the same object: its schedulers, hyperparameters and state dict work as before, and a saved
    state loads into an unmodified optimizer. The projection runs inside the optimizer's step, so gradients are clipped
    before it; with `rescale` their norms don't change. The callback `OrthogonalGradient` projects before clipping.

    Args:
        optimizer: any `torch.optim.Optimizer`, stepped with or without a closure.
        scope: see `orthogonalize_gradients_`; "model" means all selected parameters of the optimizer.
        rescale: see `orthogonalize_gradients_`.
        select: whether to project a parameter.

    Returns:
        The same optimizer. ``optimizer.orthogonal_gradients.remove()`` undoes the change.

    Raises:
        ValueError: an unknown scope; an optimizer that does this already.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, 0.0]))
        >>> optimizer = with_orthogonal_gradients(torch.optim.SGD([weight], lr=0.1))
        >>> weight.grad = torch.tensor([3.0, 4.0])
        >>> optimizer.step()
        >>> weight.tolist()
        [1.0, -0.5]
    """
    check_choice("with_orthogonal_gradients", "scope", scope, Scope)
    if hasattr(optimizer, "orthogonal_gradients"):
        raise ValueError("with_orthogonal_gradients: this optimizer orthogonalises already; wrap it once.")

    def project() -> None:
        parameters = [
            parameter
            for group in optimizer.param_groups
            for parameter in group["params"]
            if parameter.grad is not None and select(parameter)
        ]
        orthogonalize_gradients_(parameters, [parameter.grad for parameter in parameters], scope=scope, rescale=rescale)

    def before_step(stepping: Optimizer, arguments: Any, keywords: dict[str, Any]) -> Any:
        positional = len(arguments) > 1
        closure = arguments[1] if positional else keywords.get("closure")
        if closure is None:
            project()
            return None

        # A closure computes the gradients inside the step, so the projection follows it.
        def closure_and_projection() -> Any:
            with torch.enable_grad():
                loss = closure()
            project()
            return loss

        if positional:
            return (arguments[0], closure_and_projection, *arguments[2:]), keywords
        return arguments, {**keywords, "closure": closure_and_projection}

    handle: RemovableHandle = optimizer.register_step_pre_hook(before_step)
    optimizer.orthogonal_gradients = handle  # type: ignore[attr-defined]
    return optimizer


def _over_scope(values: Tensor, scope: Scope) -> Tensor:
    return values if scope == "tensor" else values.sum().expand_as(values)


def _check_pairs(weights: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
    if len(weights) != len(gradients):
        raise ValueError(
            f"orthogonal_gradient: {len(weights)} weights came with {len(gradients)} gradients; give as many."
        )
    for weight, gradient in zip(weights, gradients, strict=True):
        if weight.shape != gradient.shape:
            raise ValueError(
                f"orthogonal_gradient: a gradient of shape {list(gradient.shape)} came with a weight of shape "
                f"{list(weight.shape)}."
            )
        if gradient.layout != torch.strided:
            raise ValueError("orthogonal_gradient: a sparse gradient came; give the embedding sparse=False.")
