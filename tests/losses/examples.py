"""Example tensors for any loss, made from the glossary names that it asks for."""

import functools
import inspect
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from lightning_losses.losses import NDLoss
from lightning_losses.losses.base import Loss
from lightning_losses.losses.glossary import GLOSSARY, Sizes, example
from lightning_losses.losses.policy_gradient.policy_gradient_loss import PolicyGradientLoss

BATCH, CLASSES, FEATURES = Sizes.batch, Sizes.classes, Sizes.features

# What a constructor may ask for without a default.
ARGUMENTS: dict[str, Any] = {
    "num_classes": CLASSES,
    "feature_dim": FEATURES,
    "num_groups": 2,
    "num_domains": 2,
    "num_teachers": 1,
    "min_value": -2.0,
    "max_value": 2.0,
    "k": 1,
    "layers": 2,
    "heads": 2,
}


def counts(classes: int) -> dict[str, Any]:
    """Numbers of training samples with each class, and with each two of them."""
    single = [float(8 * 2**k) for k in range(classes)]
    return {"class_counts": single, "co_occurrence": [[min(a, b) / (1 + (a != b)) for a in single] for b in single]}


def tensors(loss: type[Loss], batch: int = BATCH, classes: int = CLASSES, seed: int = 0) -> dict[str, Any]:
    """An example of everything that a loss takes."""
    sizes = Sizes(torch.Generator().manual_seed(seed), batch=batch, classes=classes)
    values: dict[str, Any] = {name: example(name, sizes) for name in loss.inputs()}
    if batch and {"logits", "target"} <= values.keys():
        # One prediction is right, so that losses of correctness see both kinds.
        values["target"][0] = values["logits"][0].argmax()
    return values


def build(loss: type[Loss], classes: int = CLASSES, **options: Any) -> Loss:
    """The loss with its defaults and these options, in float64, its own parameters drawn from a fixed seed."""
    required = [
        name
        for name, parameter in parameters(loss).items()
        if parameter.default is inspect.Parameter.empty and name not in options
    ]
    known = {**ARGUMENTS, "num_classes": classes, "old_classes": (classes + 1) // 2, **counts(classes)}
    if takes(loss, "class_counts") and not takes(loss, "co_occurrence"):
        options = {"class_counts": known["class_counts"], **options}
    if loss.inputs().keys() & {"features"} and takes(loss, "feature_dim"):
        options = {"feature_dim": FEATURES, **options}
    if issubclass(loss, PolicyGradientLoss):
        # By default a reference and entropies may come, and are not read.
        options = {"beta": 0.1, "entropy_weight": 0.01, **options}
    with torch.random.fork_rng():
        # Of the CPU alone: see the fixture `seed`.
        torch.default_generator.manual_seed(0)
        built = loss(**{name: known[name] for name in required if name not in options}, **options).double()
        if isinstance(built, NDLoss):  # without class means it teaches nothing
            built.set_class_means(torch.randn(known["num_classes"], FEATURES, dtype=torch.float64))
        if any(is_lazy(parameter) for parameter in built.parameters()):
            with torch.no_grad():
                built.eval()(**tensors(loss, classes=classes))
            built.train()
        return built


# Read tens of thousands of times.
@functools.cache
def parameters(loss: type[Loss]) -> dict[str, inspect.Parameter]:
    """The parameters of the constructor that have a name."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name: one for name, one in inspect.signature(loss).parameters.items() if one.kind in named}


def constructor_options(loss: type[Loss]) -> list[str]:
    """The names that the constructor takes."""
    return list(parameters(loss))


def takes(loss: type[Loss], option: str) -> bool:
    """Whether the constructor has this option."""
    return option in parameters(loss)


def floating(values: dict[str, Any]) -> dict[str, Tensor]:
    """The floating-point tensors among them."""
    return {name: value for name, value in values.items() if isinstance(value, Tensor) and value.is_floating_point()}


def trained(values: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors that a gradient is expected for: what is not a teacher's, a reference's or the past's."""
    return {name: value for name, value in floating(values).items() if GLOSSARY[name].role == "trained"}


def with_gradients(loss: Loss, values: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss's value, and the gradient of its sum by every trained tensor."""
    leaves = {name: value.detach().clone().requires_grad_() for name, value in trained(values).items()}
    value = loss(**{**values, **leaves})
    found = torch.autograd.grad(value.sum(), list(leaves.values()), allow_unused=True, materialize_grads=True)
    return value.detach(), dict(zip(leaves, found, strict=True))
