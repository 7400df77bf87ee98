"""No loss makes the host wait for the device, forward or backward: shown without one, on tensors that hold nothing."""

import contextlib
import re

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from lightning_losses.losses import Brier, TotalVariation, ZLoss, loss_classes
from lightning_losses.losses.glossary import GLOSSARY
from tests.frozen.cases import all_cases
from tests.frozen.outcomes import built
from tests.losses.examples import tensors


class Waits(TorchDispatchMode):
    """Names what would wait if the meta device were a GPU.

    Reading a value (``item``, ``nonzero``, a mask as an index) fails by itself, since a tensor of this device holds
    none. What is left is what is copied from the host: a tensor that no operation made, or one on the CPU.
    """

    def __init__(self, *given):
        super().__init__()
        self.waits = []
        # By storage, so that views are known; kept, so that no address is used again.
        self.storages = {}
        self.know(given)

    def know(self, values):
        for tensor in tensors_in(values):
            self.storages[tensor.untyped_storage()._cdata] = tensor.untyped_storage()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = tensors_in([args, kwargs])
        result = described_result(operation, args, kwargs)
        here = any(tensor.is_meta for tensor in [*given, *tensors_in(result)])
        for tensor in given:
            copied = here and not tensor.is_meta and tensor.ndim > 0
            if copied or (tensor.is_meta and tensor.untyped_storage()._cdata not in self.storages):
                self.waits.append(f"{operation} takes {list(tensor.shape)} from the host")
        self.know(result)
        return result


RESULTS = {}


def described_result(operation, args, kwargs):
    """What an operation on tensors of the meta device gives.

    PyTorch works it out in Python each time, which is most of this file's time. A new tensor of the same operation and
    of inputs that are described alike is described as before.
    """
    schema = operation._schema
    aliases = any(part.alias_info is not None for part in [*schema.arguments, *schema.returns])
    if aliases or len(schema.returns) != 1 or schema.returns[0].type.kind() != "TensorType":
        return operation(*args, **kwargs)
    key = operation, described(args), described(sorted(kwargs.items()))
    if key not in RESULTS:
        result = operation(*args, **kwargs)
        if not result.is_meta:
            return result
        RESULTS[key] = result.shape, result.stride(), result.dtype
    size, stride, dtype = RESULTS[key]
    return torch.empty_strided(size, stride, dtype=dtype, device="meta")


def described(value):
    if isinstance(value, torch.Tensor):
        return value.shape, value.stride(), value.dtype, value.device
    if isinstance(value, list | tuple):
        return tuple(described(part) for part in value)
    return type(value), value


def tensors_in(values):
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]


def on_meta(values):
    return tree_map(lambda leaf: leaf.to("meta") if isinstance(leaf, torch.Tensor) else leaf, values)


def unlike(cases):
    """Those that differ in more than the numbers of their inputs, which a tensor that holds nothing doesn't have.

    Each option is tried alone, on the harder of its inputs, and one of its numbers stands for all. A sum, and the rows
    themselves, are tried of one example; a mean of all.
    """
    cases = {case.name: case for case in cases}
    known = set()
    for name, case in cases.items():
        easier = "=" in name and re.sub(r", (plain|ignored)\b", ", hard", name) in cases.keys() - {name}
        reduced = re.match(r"(none|sum), (?!plain$)", name)
        pair = re.fullmatch(r"\w+=[^,]*, \w+=[^,]*", name)
        inputs = [
            (key, *((leaf.shape, leaf.dtype) for leaf in tensors_in(value))) for key, value in case.inputs.items()
        ]
        kinds = {key: value if isinstance(value, str | bool) else type(value) for key, value in case.options.items()}
        told = repr((kinds, case.training, case.steps, inputs))
        if not easier and not reduced and not pair and told not in known:
            known.add(told)
            yield case


def waits(loss, values):
    """What a step of the loss with these tensors would wait for."""
    values = on_meta(values)
    for tensor in tensors_in([value for name, value in values.items() if GLOSSARY[name].role == "trained"]):
        tensor.requires_grad_()
    with Waits(values, *loss.parameters(), *loss.buffers()) as mode:
        value = loss(**values)
        if value.requires_grad:
            value.sum().backward()
    return mode.waits


@pytest.fixture(autouse=True)
def autocast_of_any_device(monkeypatch):
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())


@pytest.mark.parametrize("loss", loss_classes(), ids=lambda loss: loss.identifier())
def test_no_loss_waits_for_the_device(loss):
    steps = 0
    for case in unlike(all_cases(loss)):
        with contextlib.suppress(ValueError):  # a case of a refusal
            assert waits(built(loss.__name__, case).to("meta"), case.inputs) == [], case.name
            steps += 1
    assert steps > 3


@pytest.mark.parametrize("loss", [Brier, ZLoss, TotalVariation], ids=lambda loss: loss.identifier())
def test_counting_the_samples_of_a_mean_waits_for_nothing(loss):
    values = on_meta(tensors(loss))
    with Waits(values) as mode:
        loss().denominator(**values)
    assert mode.waits == []


@pytest.mark.parametrize(
    "step",
    [
        lambda logits: logits[logits > 0],
        lambda logits: logits * float(logits.sum()),
        lambda logits: logits.nonzero(),
        lambda logits: logits.unique(),
        lambda logits: logits.masked_select(logits > 0),
        lambda logits: logits[[0, 1]],
        lambda logits: logits * torch.tensor([1.0, 2.0, 3.0]).to(logits.device),
        lambda logits: logits * torch.tensor([1.0, 2.0, 3.0], device=logits.device),
        lambda logits: logits.cpu().to("meta"),
    ],
)
def test_what_waits_is_noticed(step):
    logits = torch.zeros(3, device="meta")
    try:
        with Waits(logits) as mode:
            step(logits)
    except (RuntimeError, NotImplementedError):  # a value was read
        return
    assert mode.waits
