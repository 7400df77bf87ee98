"""Finds where a training step stops being finite (term, tensor, layer); saves and replays the batch."""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lightning_losses.environment.atomic_files import replacing
from lightning_losses.objective import Term


class Cause(NamedTuple):
    """What was not finite first; a field is None if everything of its kind was finite, or nothing of its kind exists.

    Attributes:
        message: the cause in one sentence.
        term: the objective's first term whose value, or gradient, is not finite.
        tensor: the first tensor that is not finite: of the batch, of the parameters, or of that term's inputs.
        layer: the first layer, by its name in the module, whose output, or gradient, is not finite.
    """

    message: str
    term: str | None
    tensor: str | None
    layer: str | None

    def __str__(self) -> str:
        return self.message


class _Found:
    """The first findings of the hooks, by kind."""

    def __init__(self) -> None:
        self.layer: str | None = None
        self.masked: str | None = None
        self.term: str | None = None
        self.tensor: str | None = None
        self.gradient: str | None = None


def find_cause(module: nn.Module, batch: Any, batch_idx: int = 0, *, gradients: bool = False) -> Cause | None:
    """Run a training step while checking every layer; None if everything is finite.

    Minus infinity in a layer's output counts as a masked class, unless nothing else explains the failure. Nothing is
    logged, and gradients are not changed.

    Args:
        module: a module with a `training_step`; its `Objective`, if any, gives the terms. A teacher in `module.teacher`
            is checked too.
        batch: the step's batch.
        batch_idx: the step's batch index.
        gradients: also run the backward pass and check the gradients.

    Example:
        >>> import lightning
        >>> class Root(lightning.LightningModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.network = nn.Linear(2, 1)
        ...     def training_step(self, batch, batch_idx):
        ...         return self.network(batch).log().mean()
        >>> module = Root()
        >>> _ = nn.init.zeros_(module.network.weight), nn.init.constant_(module.network.bias, -1.0)
        >>> find_cause(module, torch.ones(3, 2)).message
        'the loss is nan, and every tensor and layer before it is finite'
    """
    before = _cause_before(module, batch)
    found = _Found()
    with ExitStack() as stack:
        stack.enter_context(_silent(module))
        stack.enter_context(torch.enable_grad())
        for name, part in _parts(module):
            hook = _watch(found, name, part, gradients)
            stack.callback(part.register_forward_hook(hook, with_kwargs=True).remove)
        # Run even if the cause is known: other processes may wait for this one within the step.
        output = module.training_step(batch, batch_idx)  # type: ignore[operator]
        loss = output if isinstance(output, Tensor) else output["loss"]
        slopes = _slopes(module, loss) if gradients else {}
    if before is not None:
        return before
    if _finite(loss):
        return _gradient_cause(slopes, found) if gradients else None
    layer = found.layer or (found.masked if found.term is None or found.tensor is None else None)
    word = "nan" if bool(loss.isnan().any()) else "infinite"
    parts = [f"term '{found.term}' is not finite" if found.term else f"the loss is {word}"]
    if found.tensor:
        parts.append(f"its input '{found.tensor}' is not finite")
    if layer:
        parts.append(f"the first layer that is not finite is '{layer}'")
    if not found.tensor and not layer:
        parts.append("and every tensor and layer before it is finite")
    return Cause(", ".join(parts), found.term, found.tensor, layer)


def _cause_before(module: nn.Module, batch: Any) -> Cause | None:
    for name, tensor in _tensors(batch, "batch"):
        if not _finite(tensor):
            return Cause(f"{name} holds {_amount(tensor)}", None, name, None)
    for name, parameter in module.named_parameters():
        if not _finite(parameter):
            text = f"the parameter '{name}' holds {_amount(parameter)}, since a step before this one (gradients=True)"
            return Cause(text, None, name, name.rpartition(".")[0])
    return None


def _slopes(module: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    named = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    slopes = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {name: slope for name, slope in zip(named, slopes, strict=True) if slope is not None}


def _gradient_cause(slopes: dict[str, Tensor], found: _Found) -> Cause | None:
    bad = [name for name, slope in slopes.items() if not _finite(slope)]
    if not bad and found.gradient is None:
        return None
    # The backward pass meets the last layers first.
    tensor = bad[-1] if bad else None
    text = "the loss is finite, its gradient is not"
    text += f"; the backward pass meets it first at the output of '{found.gradient}'" if found.gradient else ""
    text += f"; of {len(slopes)} parameters {len(bad)} have it, '{tensor}' among them" if tensor else ""
    return Cause(text, None, tensor, found.gradient)


def _watch(found: _Found, name: str, part: nn.Module, gradients: bool) -> Any:
    def hook(layer: nn.Module, arguments: Any, keywords: dict[str, Any], output: Any) -> None:
        if isinstance(layer, Term):
            if found.term is None and not all(_finite(tensor) for _, tensor in _tensors(output, "")):
                found.term = name.rpartition(".")[2]
                taken = {source for source, _ in layer._arguments.values()}
                offered = arguments[0] if arguments else {}
                bad = [key for key in taken if any(not _finite(t, True) for _, t in _tensors(offered.get(key), ""))]
                found.tensor = sorted(bad)[0] if bad else None
            return
        if "objective" in name.split("."):
            return
        for _, tensor in _tensors(output, ""):
            if found.layer is None and not _finite(tensor, masks=True):
                found.layer = name
            elif found.masked is None and not _finite(tensor):
                found.masked = name
            if gradients and tensor.requires_grad:
                tensor.register_hook(lambda slope: _see(found, name, slope))  # type: ignore[no-untyped-call]

    return hook


def _see(found: _Found, name: str, slope: Tensor) -> None:
    if found.gradient is None and not _finite(slope):
        found.gradient = name


def _parts(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    yield from ((name, part) for name, part in module.named_modules() if name)
    teacher = getattr(module, "teacher", None)
    # A teacher that is a submodule has been checked already.
    if isinstance(teacher, nn.Module) and teacher not in set(module.children()):
        yield from ((f"teacher.{name}" if name else "teacher", part) for name, part in teacher.named_modules())


@contextmanager
def _silent(module: nn.Module) -> Iterator[None]:
    """Within this context nothing is added to logs and means."""
    names = [name for name in ("log", "log_dict", "add_to_means") if hasattr(module, name)]
    for name in names:
        module.__dict__[name] = lambda *arguments, **keywords: None
    try:
        yield
    finally:
        for name in names:
            del module.__dict__[name]


def save_batch(
    path: Path, module: nn.Module, batch: Any, batch_idx: int, random: Tensor, clock: Mapping[str, float]
) -> None:
    """Write the data for `replay` as safetensors: the batch, the weights, the random state and the clock."""
    tensors: dict[str, Tensor] = {"random": random}
    shape = _flatten(batch, "batch", tensors)
    for name, value in module.state_dict().items():
        if isinstance(value, Tensor):
            tensors[f"state.{name}"] = value.full_tensor() if hasattr(value, "full_tensor") else value
    # Copies, because safetensors refuses tensors that share memory.
    content = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    metadata = {"batch": json.dumps(shape), "batch_idx": str(batch_idx), "clock": json.dumps(dict(clock))}
    with replacing(path) as partial:
        save_file(content, partial, metadata=metadata)


def replay(path: str | Path, module: nn.Module, *, gradients: bool = True) -> Cause | None:
    """Run a saved batch again, with its weights and random numbers, and return what is not finite.

    Args:
        path: the file that `NumericsGuard` wrote.
        module: built like the trained module, with its teacher set; it gets the saved weights.
        gradients: see `find_cause`.

    Raises:
        ValueError: no such file, another kind of file, or weights that don't fit.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata()
        batch = _unflatten(json.loads(metadata["batch"]), tensors)
        clock = json.loads(metadata["clock"])
        state = {name.removeprefix("state."): t for name, t in tensors.items() if name.startswith("state.")}
        module.load_state_dict(state)
    except Exception as error:  # a foreign or damaged file can fail in any way
        raise ValueError(f"replay: {path} can't be replayed: {(str(error).splitlines() or ['?'])[0]}") from None
    module.__dict__["training_clock"] = lambda: clock
    module.train()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(tensors["random"][: len(torch.get_rng_state())])
            return find_cause(module, batch, int(metadata["batch_idx"]), gradients=gradients)
    finally:
        del module.__dict__["training_clock"]


def _flatten(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {"mapping": {str(key): _flatten(item, f"{name}.{key}", tensors) for key, item in value.items()}}
    if isinstance(value, list | tuple):
        return {"list": [_flatten(item, f"{name}.{place}", tensors) for place, item in enumerate(value)]}
    return {"plain": value if isinstance(value, bool | int | float | str | None) else repr(value)}


def _unflatten(shape: Any, tensors: Mapping[str, Tensor]) -> Any:
    if "tensor" in shape:
        return tensors[shape["tensor"]]
    if "mapping" in shape:
        return {key: _unflatten(item, tensors) for key, item in shape["mapping"].items()}
    return [_unflatten(item, tensors) for item in shape["list"]] if "list" in shape else shape["plain"]


def _tensors(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """The floating-point tensors in nested values, with their paths."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield name, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _tensors(item, f"{name}['{key}']")
    elif isinstance(value, list | tuple):
        for place, item in enumerate(value):
            yield from _tensors(item, f"{name}[{place}]")
    elif isinstance(value, float) and not math.isfinite(value):
        yield name, torch.tensor(value)


def _finite(tensor: Tensor, masks: bool = False) -> bool:
    tensor = tensor.detach()
    if masks:
        return not bool((tensor.isnan() | tensor.isposinf()).any())
    return bool(torch.isfinite(tensor).all())


def _amount(tensor: Tensor) -> str:
    bad = ~torch.isfinite(tensor.detach())
    return f"{int(bad.sum())} of {bad.numel()} values that are not finite"
