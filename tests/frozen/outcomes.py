"""What comes of one case of a loss, and how far two outcomes lie apart."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_losses import losses
from lightning_losses.losses.base import Loss


class Case(NamedTuple):
    """A loss's options and what it is given, all by name.

    Attributes:
        name: in words, unique among the cases of a loss.
        options: what the constructor is given; plain values, and `{"loss": ...}` or `{"layer": ...}` for a module.
        inputs: what `forward` is given.
        steps: methods that are called first, with their arguments; a buffer's name and a tensor to set it.
        training: the mode.
        parameters: the loss's own, by name; where empty they are as they were drawn from a fixed seed.
    """

    name: str
    options: dict[str, Any]
    inputs: dict[str, Any]
    steps: list[list[Any]]
    training: bool = True
    parameters: dict[str, Tensor] = {}


# By the name of what came: tensors, or the sentence of a refusal. A gradient of zeros is left out.
Outcome = dict[str, Any]


def revived(option: Any) -> Any:
    """An option as the constructor takes it."""
    if isinstance(option, dict) and "layer" in option:
        return getattr(nn, option["layer"])(*option["arguments"])
    if isinstance(option, dict):
        return getattr(losses, option["loss"])(**{key: revived(value) for key, value in option["options"].items()})
    return option


def built(name: str, case: Case) -> Loss:
    """The loss of a case in float64, with its state and its parameters set."""
    torch.default_generator.manual_seed(0)
    loss: Loss = revived({"loss": name, "options": case.options}).double()
    for step, value in case.steps:
        if isinstance(value, Tensor):
            loss.get_buffer(step).copy_(value)
        else:
            getattr(loss, step)(**value)
    if any(map(is_lazy, loss.parameters())):
        with torch.no_grad():
            loss.eval()(**case.inputs)
    with torch.no_grad():
        for key, value in case.parameters.items():
            loss.get_parameter(key).copy_(value)
    return loss.train(case.training)


def own_parameters(loss: Loss) -> dict[str, nn.Parameter]:
    """The loss's parameters by name, but those that wait for a first sample."""
    return {key: value for key, value in loss.named_parameters() if not is_lazy(value)}


def outcome(name: str, case: Case) -> Outcome:
    """Value, gradients and changed buffers; an error in words in their place."""
    try:
        loss = built(name, case)
        leaves: dict[str, Tensor] = {}
        inputs = {key: _with_leaves(key, value, leaves) for key, value in case.inputs.items()}
        leaves |= own_parameters(loss)
        before = {key: buffer.clone() for key, buffer in loss.named_buffers()}
        torch.default_generator.manual_seed(0)
        value = loss(**inputs)
        # Rows are weighed unlike, so that the gradient of each one is seen.
        upstream = torch.linspace(0.5, 1.5, max(value.numel(), 1), dtype=value.dtype)[: value.numel()].view_as(value)
        slopes = (
            torch.autograd.grad(
                value,
                list(leaves.values()),
                upstream if value.ndim else None,
                allow_unused=True,
                materialize_grads=True,
            )
            if value.requires_grad
            else map(torch.zeros_like, leaves.values())
        )
    except Exception as error:
        return {"refusal": f"{type(error).__name__}: {error}"}
    gradients = {f"gradient of {key}": slope for key, slope in zip(leaves, slopes, strict=True)}
    changed = {f"buffer {key}": buffer for key, buffer in loss.named_buffers() if not _alike(buffer, before[key])}
    return {"value": value.detach(), **{k: v for k, v in gradients.items() if bool((v != 0).any())}, **changed}


def _with_leaves(name: str, value: Any, leaves: dict[str, Tensor]) -> Any:
    if isinstance(value, dict):
        return {key: _with_leaves(f"{name}.{key}", part, leaves) for key, part in value.items()}
    if isinstance(value, Tensor) and value.is_floating_point():
        leaves[name] = value.clone().requires_grad_()
        return leaves[name]
    return value.clone() if isinstance(value, Tensor) else value


def _alike(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and bool(((a == b) | (a.isnan() & b.isnan())).all())


def difference(now: Outcome, then: Outcome) -> float:
    """0 where all is equal to the bit; inf where it is of another kind; else the largest relative difference.

    A tensor is measured by its largest entry, or by 1e-3 where that is less: below lies the rounding of what cancels.
    """
    if "refusal" in now or "refusal" in then:
        return 0.0 if now == then else math.inf
    none = {k: torch.zeros_like(v) for k, v in (now | then).items() if k.startswith("gradient")}
    now, then = none | now, none | then
    if now.keys() != then.keys():
        return math.inf
    return max(_apart(now[key], then[key]) for key in then)


def _apart(now: Tensor, then: Tensor) -> float:
    if _alike(now, then):
        return 0.0
    finite = then.isfinite()
    if now.shape != then.shape or now.dtype != then.dtype or not torch.equal(now.isfinite(), finite):
        return math.inf
    if then.dtype == torch.bool or not _alike(now[~finite], then[~finite]):
        return math.inf
    scale = max(float(then[finite].abs().max()), 1e-3)
    return float((now[finite] - then[finite]).abs().max()) / scale
