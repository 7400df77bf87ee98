"""Example tensors for any loss, made from the glossary names that it asks for."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from lightning_losses.losses import NDLoss
from lightning_losses.losses.base import Loss

BATCH, CLASSES, FEATURES, VOCABULARY = 6, 5, 4, 7

# What a constructor may ask for without a default.
ARGUMENTS: dict[str, Any] = {"num_classes": CLASSES, "feature_dim": FEATURES, "num_teachers": 1}


def make(name: str, batch: int, classes: int, generator: torch.Generator) -> Tensor | float:
    """An example under a glossary name, in float64."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    glossary: dict[str, Callable[[], Tensor | float]] = {
        "logits": lambda: 2 * normal(batch, classes),
        "teacher_logits": lambda: 2 * normal(batch, classes),
        "distillation_logits": lambda: 2 * normal(batch, classes),
        "mixup_logits": lambda: 2 * normal(batch, classes),
        "mixup_target": lambda: normal(batch, classes).softmax(dim=-1),
        "past_probabilities": lambda: normal(batch, classes).softmax(dim=-1),
        "target": lambda: torch.randint(0, classes, (batch,), generator=generator),
        "features": lambda: normal(batch, FEATURES),
        "teacher_features": lambda: normal(batch, FEATURES),
        "feature_maps": lambda: normal(batch, 3, 4, 4),
        "teacher_feature_maps": lambda: normal(batch, 2, 4, 4),
        "embeddings": lambda: normal(batch, FEATURES),
        "embeddings_b": lambda: normal(batch, FEATURES),
        "hidden": lambda: normal(batch, FEATURES),
        "head_weight": lambda: normal(VOCABULARY, FEATURES),
        "head_bias": lambda: normal(VOCABULARY),
        "teacher_hidden": lambda: normal(batch, FEATURES),
        "teacher_head_weight": lambda: normal(VOCABULARY, FEATURES),
        "aspect_logits": lambda: 2 * normal(batch, 3),
        "teacher_aspects": lambda: normal(batch, 3).sigmoid(),
        "unlabelled": lambda: torch.arange(batch) != 1,
        "spans": lambda: torch.arange(batch) // 3,
        "ratio": lambda: normal(batch).sigmoid(),
        "weights": lambda: normal(batch, FEATURES),
        "index": lambda: torch.arange(batch),
        "chosen_logps": lambda: -3 * normal(batch).abs(),
        "rejected_logps": lambda: -3 * normal(batch).abs(),
        "ref_chosen_logps": lambda: -3 * normal(batch).abs(),
        "ref_rejected_logps": lambda: -3 * normal(batch).abs(),
        "step": lambda: 3.0,
        "progress": lambda: 0.5,
        "epoch_progress": lambda: 0.5,
    }
    if name not in glossary:
        raise KeyError(f"{name} is not in the glossary; losses take {', '.join(glossary)}")
    return glossary[name]()


def tensors(loss: type[Loss], batch: int = BATCH, classes: int = CLASSES, seed: int = 0) -> dict[str, Any]:
    """An example of everything that a loss takes."""
    generator = torch.Generator().manual_seed(seed)
    values: dict[str, Any] = {name: make(name, batch, classes, generator) for name in loss.inputs()}
    if batch and {"logits", "target"} <= values.keys():
        # One prediction is right, so that losses of correctness see both kinds.
        values["target"][0] = values["logits"][0].argmax()
    return values


def build(loss: type[Loss], classes: int = CLASSES, **options: Any) -> Loss:
    """The loss with its defaults and these options, in float64, its own parameters drawn from a fixed seed."""
    required = [
        name
        for name in constructor_options(loss)
        if inspect.signature(loss).parameters[name].default is inspect.Parameter.empty and name not in options
    ]
    known = {**ARGUMENTS, "num_classes": classes}
    if loss.inputs().keys() & {"features"} and "feature_dim" in inspect.signature(loss).parameters:
        options = {"feature_dim": FEATURES, **options}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        built = loss(**{name: known[name] for name in required if name not in options}, **options).double()
        if isinstance(built, NDLoss):  # without class means it teaches nothing
            built.set_class_means(torch.randn(known["num_classes"], FEATURES, dtype=torch.float64))
        if any(is_lazy(parameter) for parameter in built.parameters()):
            with torch.no_grad():
                built.eval()(**tensors(loss, classes=classes))
            built.train()
        return built


def constructor_options(loss: type[Loss]) -> list[str]:
    """The names that the constructor takes."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [name for name, parameter in inspect.signature(loss).parameters.items() if parameter.kind in named]


def takes(loss: type[Loss], option: str) -> bool:
    """Whether the constructor has this option."""
    return option in constructor_options(loss)


def floating(values: dict[str, Any]) -> dict[str, Tensor]:
    """The floating-point tensors among them."""
    return {name: value for name, value in values.items() if isinstance(value, Tensor) and value.is_floating_point()}


def trained(values: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors that a gradient is expected for: what is not a teacher's, a reference's or the past's."""
    constant = ("teacher_", "ref_", "past_", "target")
    return {name: value for name, value in floating(values).items() if not name.startswith(constant)}


def with_gradients(loss: Loss, values: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss's value, and the gradient of its sum by every trained tensor."""
    leaves = {name: value.detach().clone().requires_grad_() for name, value in trained(values).items()}
    value = loss(**{**values, **leaves})
    found = torch.autograd.grad(value.sum(), list(leaves.values()), allow_unused=True, materialize_grads=True)
    return value.detach(), dict(zip(leaves, found, strict=True))
