"""The fused heads as opaque operations, one node each, in the graphs of `torch.compile`.

A head loops over chunks, chooses an implementation by the device, and returns gradients that it computed in the forward
pass; a compiler can't trace these steps well. During tracing, the head's public function ("door") passes its tensors
and settings to an operation of this module, which calls the same function when the graph runs. A reduced loss returns
its gradients with its value; if each row has its own gradient, the backward pass calls the function again, with the
values that the forward pass recorded for each row.
"""

import functools
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor

from lightning_losses.kernels.autograd import Notes, noting
from lightning_losses.kernels.terms import statistics_dtype
from lightning_losses.losses.base import Loss, living

P = ParamSpec("P")
R = TypeVar("R")

TENSORS = (
    *("hidden", "weight", "bias", "target", "class_weight", "normalizer", "student_classes", "teacher_classes"),
    *("cost_embedding", "teacher_weight", "teacher_bias", "teacher_hidden", "classes", "rest"),
)
"""What a door may be given as tensors; what a teacher's logits consist of has the last places."""
_LOGITS = TENSORS[-3:]
_CAST = ("hidden", "weight", "bias", "teacher_hidden", "teacher_weight")
# The gradient of a mean in float16 is enlarged until the upstream one is known: its small entries underflow.
_ENLARGED = 1024.0


class Returned(NamedTuple):
    """What a door returns for its arguments.

    Attributes:
        kind: the named tuple, whose first field is the loss; None for the loss alone.
        fields: the fields that are tensors; one for the loss alone.
        rowwise: whether each of them has a value for every row.
        shape: of the rows.
    """

    kind: Callable[..., Any] | None
    fields: tuple[str, ...]
    rowwise: tuple[bool, ...]
    shape: tuple[int, ...]


class _Call(NamedTuple):
    door: Callable[..., Any]
    names: tuple[str, ...]
    values: tuple[Any, ...]


_CALLS: list[_Call] = []


@torch.compiler.assume_constant_result
def _number_of(door: Callable[..., Any], names: tuple[str, ...], values: tuple[Any, ...]) -> int:
    """The number that identifies a call in the graph; the compiler asks once and guards the arguments."""
    call = _Call(door, names, values)
    if call not in _CALLS:
        _CALLS.append(call)
    return _CALLS.index(call)


def traceable(returned: Callable[[dict[str, Any]], Returned]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a compiler trace calls of a door; `returned` says what it returns for its arguments by name."""

    def decorate(door: Callable[P, R]) -> Callable[P, R]:
        names = tuple(inspect.signature(door).parameters)

        @functools.wraps(door)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            if not torch.compiler.is_compiling():
                return door(*args, **kwargs)
            # torch 2.6 traces a zip as one of equal lengths.
            arguments: dict[str, Any] = dict(zip(names[: len(args)], args, strict=True))
            arguments.update(kwargs)
            return _node(door, arguments, returned(arguments))

        return call

    return decorate


def _node(door: Callable[..., Any], arguments: dict[str, Any], returned: Returned) -> Any:
    """A door's call as a node of the graph that is being traced."""
    tensors: dict[str, Tensor] = {}
    settings: dict[str, Any] = {}
    which = 0
    for name, value in arguments.items():
        if isinstance(value, Tensor):
            tensors[name] = value
        elif isinstance(value, tuple) and hasattr(value, "_fields") and name == "teacher_hidden":
            settings[name] = type(value)
            # torch 2.6 traces a zip as one of equal lengths.
            for place, part in zip(_LOGITS[: len(value)], value, strict=True):
                if part is not None:
                    tensors[place] = part
        elif isinstance(value, Loss):
            # Known by its identity: its settings may change from step to step.
            which, settings[name] = id(value), Loss
        else:
            settings[name] = value
    # Autocast has ended when the graph runs.
    device = tensors["hidden"].device.type
    if torch.is_autocast_enabled(device):
        for name in _CAST:
            if name in tensors and tensors[name].dtype != torch.float64:
                tensors[name] = tensors[name].to(torch.get_autocast_dtype(device))
    number = _number_of(door, tuple(settings), tuple(settings.values()))
    given = [tensors.get(name) for name in TENSORS]
    operations = torch.ops.lightning_losses
    if any(returned.rowwise):
        *values, _ = operations.head_rows(*given, number, which, list(returned.rowwise), list(returned.shape))
    else:
        learns = torch.is_grad_enabled()
        wanted = [learns and operand is not None and operand.requires_grad for operand in given[:3]]
        values = operations.head_sum(*given, number, which, len(returned.fields), wanted)
    if returned.kind is None:
        return values[0]
    return returned.kind(**{**dict.fromkeys(returned.kind._fields), **dict(zip(returned.fields, values))})  # type: ignore[attr-defined]  # noqa: B905


@contextmanager
def _recording() -> Iterator[None]:
    """Record for autograd within an operation, which runs below it."""
    keys = torch._C.DispatchKey
    excluded = torch._C._dispatch_tls_local_exclude_set()
    for key in (keys.AutogradFunctionality, keys.AutogradOther, keys.AutogradCPU, keys.AutogradCUDA):
        excluded = excluded.remove(key)
    excluded = excluded.remove(keys.ADInplaceOrView)
    included = torch._C._dispatch_tls_local_include_set()
    with torch._C._ForceDispatchKeyGuard(included, excluded), torch.enable_grad():
        yield


def _evaluated(
    given: Sequence[Tensor | None], call: int, which: int, wanted: Sequence[bool]
) -> tuple[list[Tensor], list[Tensor]]:
    """The operands that need a gradient, as leaves of a separate graph, and the door's values."""
    door, names, settings = _CALLS[call]
    tensors = {name: tensor.detach() for name, tensor in zip(TENSORS, given, strict=True) if tensor is not None}
    leaves = [tensors[name].requires_grad_() for name, wants in zip(TENSORS, wanted, strict=False) if wants]
    arguments: dict[str, Any] = dict(zip(names, settings, strict=True))
    for name, value in arguments.items():
        if value is Loss:
            arguments[name] = living(which)
        elif name == "teacher_hidden":
            logits = [tensors.pop(part) for part in _LOGITS if part in tensors]
            arguments[name] = value(*logits)
    value = door(**tensors, **arguments)
    return leaves, [value] if isinstance(value, Tensor) else [part for part in value if part is not None]


def _fake_gradients(given: Sequence[Tensor | None], wanted: Sequence[bool]) -> list[Tensor]:
    hidden = given[0]
    assert hidden is not None
    return [
        torch.empty_like(operand, memory_format=torch.contiguous_format)
        if wants and operand is not None
        else hidden.new_empty(0)
        for operand, wants in zip(given, wanted, strict=False)
    ]


def _gradients(given: Sequence[Tensor | None], wanted: Sequence[bool], gradients: Sequence[Tensor]) -> list[Tensor]:
    """The gradients in the order of the operands, empty for an operand that needs none."""
    hidden, left = given[0], iter(gradients)
    assert hidden is not None
    return [next(left).contiguous() if wants else hidden.new_empty(0) for wants in wanted]


def _enlargement(hidden: Tensor | None) -> float:
    return _ENLARGED if hidden is not None and hidden.dtype == torch.float16 else 1.0


_SCHEMA = ", ".join(f"Tensor{'' if name in ('hidden', 'weight') else '?'} {name}" for name in TENSORS)
# torch.library has no annotations.
_LIBRARY: Any = torch.library.Library("lightning_losses", "DEF")  # type: ignore[no-untyped-call]
_LIBRARY.define(f"head_sum({_SCHEMA}, int call, int which, int values, bool[] wanted) -> Tensor[]")
_LIBRARY.define(f"head_rows({_SCHEMA}, int call, int which, bool[] rowwise, SymInt[] shape) -> Tensor[]")
_LIBRARY.define(
    f"head_rows_backward({_SCHEMA}, int call, int which, Tensor[] upstream, Tensor notes, bool[] wanted) -> Tensor[]"
)
_COUNT = len(TENSORS)


def _head_sum(*arguments: Any) -> list[Tensor]:
    given, (call, which, _, wanted) = arguments[:_COUNT], arguments[_COUNT:]
    with _recording():
        leaves, values = _evaluated(given, call, which, wanted)
        gradients = torch.autograd.grad(values[0] * _enlargement(given[0]), leaves) if leaves else ()
    # Copied: the parts of a loss may share one tensor, but the outputs of an operation must not.
    return [*(value.detach().clone() for value in values), *_gradients(given, wanted, gradients)]


def _head_sum_fake(*arguments: Any) -> list[Tensor]:
    given, (_, _, values, wanted) = arguments[:_COUNT], arguments[_COUNT:]
    number = given[1].new_empty((), dtype=statistics_dtype(given[1]))
    return [*(torch.empty_like(number) for _ in range(values)), *_fake_gradients(given, wanted)]


def _head_sum_context(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    ctx.values, ctx.wanted = inputs[_COUNT + 2], inputs[_COUNT + 3]
    ctx.enlarged = _enlargement(inputs[0])
    ctx.save_for_backward(*output[ctx.values :])


def _refuse_second_order() -> None:
    if torch.is_grad_enabled():
        raise RuntimeError(
            "create_graph=True came through a compiled call of a head, which has first derivatives only; leave it out "
            "of torch.compile and use impl='reference' for higher ones."
        )


def _head_sum_backward(ctx: Any, upstream: Sequence[Tensor]) -> tuple[Any, ...]:
    _refuse_second_order()
    factor = upstream[0] / ctx.enlarged
    gradients = (
        (gradient.to(factor.dtype) * factor).to(gradient.dtype) if wants else None
        for gradient, wants in zip(ctx.saved_tensors, ctx.wanted, strict=True)
    )
    return (*gradients, *[None] * (_COUNT - 3 + 4))


def _head_rows(*arguments: Any) -> list[Tensor]:
    given, (call, which, _, shape) = arguments[:_COUNT], arguments[_COUNT:]
    lines = given[1].new_zeros(Notes.MOST, math.prod(shape), dtype=statistics_dtype(given[1]))
    with torch.no_grad(), noting(Notes(lines, made=False)):
        _, values = _evaluated(given, call, which, (False, False, False))
    return [*(value.detach().clone(memory_format=torch.contiguous_format) for value in values), lines]


def _head_rows_fake(*arguments: Any) -> list[Tensor]:
    given, (_, _, rowwise, shape) = arguments[:_COUNT], arguments[_COUNT:]
    dtype = statistics_dtype(given[1])
    values = [given[1].new_empty(shape if rows else (), dtype=dtype) for rows in rowwise]
    return [*values, given[1].new_empty(Notes.MOST, math.prod(shape), dtype=dtype)]


def _head_rows_context(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    given, (ctx.call, ctx.which, _, _) = inputs[:_COUNT], inputs[_COUNT:]
    ctx.save_for_backward(*given, output[-1])


def _head_rows_gradients(ctx: Any, upstream: Sequence[Tensor]) -> tuple[Any, ...]:
    _refuse_second_order()
    wanted = list(ctx.needs_input_grad[:3])
    *given, notes = ctx.saved_tensors
    gradients = torch.ops.lightning_losses.head_rows_backward(
        *given, ctx.call, ctx.which, list(upstream[:-1]), notes, wanted
    )
    own = (gradient if wants else None for gradient, wants in zip(gradients, wanted, strict=True))
    return (*own, *[None] * (_COUNT - 3 + 4))


def _head_rows_backward(*arguments: Any) -> list[Tensor]:
    given, (call, which, upstream, notes, wanted) = arguments[:_COUNT], arguments[_COUNT:]
    with _recording(), noting(Notes(notes, made=True)):
        leaves, values = _evaluated(given, call, which, wanted)
        pairs = [(value, up) for value, up in zip(values, upstream, strict=True) if value.requires_grad]
        gradients = torch.autograd.grad([value for value, _ in pairs], leaves, [up for _, up in pairs])
    return _gradients(given, wanted, gradients)


def _head_rows_backward_fake(*arguments: Any) -> list[Tensor]:
    return _fake_gradients(arguments[:_COUNT], arguments[-1])


for _name, _body, _fake in (
    ("head_sum", _head_sum, _head_sum_fake),
    ("head_rows", _head_rows, _head_rows_fake),
    ("head_rows_backward", _head_rows_backward, _head_rows_backward_fake),
):
    _LIBRARY.impl(_name, _body, "CompositeExplicitAutograd")
    torch.library.register_fake(f"lightning_losses::{_name}", _fake, lib=_LIBRARY)
torch.library.register_autograd(
    "lightning_losses::head_sum", _head_sum_backward, setup_context=_head_sum_context, lib=_LIBRARY
)
torch.library.register_autograd(
    "lightning_losses::head_rows", _head_rows_gradients, setup_context=_head_rows_context, lib=_LIBRARY
)
