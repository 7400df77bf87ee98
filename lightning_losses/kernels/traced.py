"""The fused heads as opaque operations, one node each, in the graphs of `torch.compile`.

A head loops over chunks, chooses an implementation by the device, and returns gradients that it computed in the forward
pass; a compiler can't trace these steps well. During tracing, the head's public function ("door") passes its tensors
and settings to an operation of this module, which calls the same function when the graph runs. A reduced loss returns
its gradients with its value; if each row has its own gradient, the backward pass calls the function again, with the
values that the forward pass recorded for each row. So it does in float16, whose range gradients leave unless the
upstream one multiplies them before they are rounded.

A number that changes between calls, which the compiler then traces as a symbol, is an input of the operation; other
settings are constants of the graph.
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

LEARNED = ("hidden", "weight", "bias", "noisy_hidden", "noisy_hidden_b")
"""The tensors that a door may give gradients to."""
TENSORS = (
    *LEARNED,
    *("target", "class_weight", "normalizer", "student_classes", "teacher_classes", "cost_embedding"),
    *("numbers", "teacher_weight", "teacher_bias", "teacher_hidden", "classes", "rest"),
)
"""What a door may be given as tensors, and the `numbers` that are symbols of the graph; what a teacher's logits consist
of has the last places."""
_LOGITS = TENSORS[-3:]
_CAST = (*LEARNED, "teacher_hidden", "teacher_weight")


class Returned(NamedTuple):
    """What a door returns for its arguments.

    Attributes:
        kind: the named tuple, whose first field is the loss; None for the loss alone.
        fields: the fields that are tensors; one for the loss alone.
        rowwise: whether each of them has a value for every row.
        shape: of the rows.
        counts: the fields that are int64.
    """

    kind: Callable[..., Any] | None
    fields: tuple[str, ...]
    rowwise: tuple[bool, ...]
    shape: tuple[int, ...]
    counts: tuple[str, ...] = ()


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


def _is_symbol(value: Any) -> bool:
    """Whether the compiler traces a number as a symbol, as far as it can be asked: torch 2.6 can't."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    # The import takes half a second, which what compiles has spent already.
    from torch.fx.experimental import symbolic_shapes

    return hasattr(symbolic_shapes, "has_static_value") and not symbolic_shapes.has_static_value(value)


def _fixed(value: Any) -> Any:
    """A number as a constant of the graph, which is traced again for another one."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value
    from torch.fx.experimental import symbolic_shapes

    if hasattr(symbolic_shapes, "has_static_value"):
        return symbolic_shapes.guard_scalar(value) if _is_symbol(value) else value
    # Torch 2.6 makes a constant of the text of a symbol.
    return int(f"{value}") if isinstance(value, int) else float(f"{value}")


def _node(door: Callable[..., Any], arguments: dict[str, Any], returned: Returned) -> Any:
    """A door's call as a node of the graph that is being traced."""
    tensors: dict[str, Tensor] = {}
    settings: dict[str, Any] = {}
    whole: list[int] = []
    numbers: list[float] = []
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
        elif isinstance(value, (tuple, list)):
            # A longer one is a list of classes, whose numbers are constants.
            settings[name] = tuple([_fixed(item) for item in value]) if len(value) <= 2 else tuple(value)
        elif _is_symbol(value) and isinstance(value, int):
            settings[name] = int
            whole.append(value)
        elif _is_symbol(value):
            settings[name] = float
            numbers.append(value)
        else:
            settings[name] = _fixed(value)
    # Autocast has ended when the graph runs.
    device = tensors["hidden"].device.type
    if torch.is_autocast_enabled(device):
        for name in _CAST:
            if name in tensors and tensors[name].dtype != torch.float64:
                tensors[name] = tensors[name].to(torch.get_autocast_dtype(device))
    if numbers:
        # A product, since the compiler keeps a symbol in one; to other operations it is a constant.
        one = torch.ones((), dtype=torch.float64, device="cpu")
        tensors["numbers"] = torch.stack([one * value for value in numbers])
    call = _number_of(door, tuple(settings), tuple(settings.values()))
    given = [tensors.get(name) for name in TENSORS]
    learns = torch.is_grad_enabled()
    wanted = [learns and operand is not None and operand.requires_grad for operand in given[: len(LEARNED)]]
    operations = torch.ops.lightning_losses
    if any(returned.rowwise) or (any(wanted) and tensors["hidden"].dtype == torch.float16):
        counts = [field in returned.counts for field in returned.fields]
        *values, _ = operations.head_rows(
            *given, call, which, whole, list(returned.rowwise), counts, list(returned.shape)
        )
    else:
        values = operations.head_sum(*given, call, which, whole, len(returned.fields), wanted)
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
    given: Sequence[Tensor | None], call: int, which: int, whole: Sequence[int], wanted: Sequence[bool]
) -> tuple[list[Tensor], list[Tensor]]:
    """The operands that need a gradient, as leaves of a separate graph, and the door's values."""
    door, names, settings = _CALLS[call]
    tensors = {name: tensor.detach() for name, tensor in zip(TENSORS, given, strict=True) if tensor is not None}
    leaves = [tensors[name].requires_grad_() for name, wants in zip(TENSORS, wanted, strict=False) if wants]
    integers, numbers = iter(whole), iter(tensors.pop("numbers").tolist() if "numbers" in tensors else ())
    arguments: dict[str, Any] = dict(zip(names, settings, strict=True))
    for name, value in arguments.items():
        if value is Loss:
            arguments[name] = living(which)
        elif value is int or value is float:
            arguments[name] = next(integers if value is int else numbers)
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


_SCHEMA = ", ".join(f"Tensor{'' if name in ('hidden', 'weight') else '?'} {name}" for name in TENSORS)
# torch.library has no annotations.
_LIBRARY: Any = torch.library.Library("lightning_losses", "DEF")  # type: ignore[no-untyped-call]
_CALL = f"{_SCHEMA}, int call, int which, SymInt[] whole"
_LIBRARY.define(f"head_sum({_CALL}, int values, bool[] wanted) -> Tensor[]")
_LIBRARY.define(f"head_rows({_CALL}, bool[] rowwise, bool[] counts, SymInt[] shape) -> Tensor[]")
_LIBRARY.define(f"head_rows_backward({_CALL}, Tensor[] upstream, Tensor notes, bool[] wanted) -> Tensor[]")
_COUNT = len(TENSORS)


def _head_sum(*arguments: Any) -> list[Tensor]:
    given, (call, which, whole, _, wanted) = arguments[:_COUNT], arguments[_COUNT:]
    with _recording():
        leaves, values = _evaluated(given, call, which, whole, wanted)
        gradients = torch.autograd.grad(values[0], leaves) if leaves else ()
    # Copied: the parts of a loss may share one tensor, but the outputs of an operation must not.
    return [*(value.detach().clone() for value in values), *_gradients(given, wanted, gradients)]


def _head_sum_fake(*arguments: Any) -> list[Tensor]:
    given, (_, _, _, values, wanted) = arguments[:_COUNT], arguments[_COUNT:]
    number = given[1].new_empty((), dtype=statistics_dtype(given[1]))
    return [*(torch.empty_like(number) for _ in range(values)), *_fake_gradients(given, wanted)]


def _nothing(settings: Sequence[Any]) -> list[Any]:
    """The gradients of an operation's settings: torch takes an empty list for one of tensors, without gradients."""
    return [[] if isinstance(setting, list) and not setting else None for setting in settings]


def _head_sum_context(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    values, ctx.wanted = inputs[_COUNT + 3 :]
    ctx.nothing = _nothing(inputs[_COUNT:])
    ctx.save_for_backward(*output[values:])


def _refuse_second_order() -> None:
    if torch.is_grad_enabled():
        raise RuntimeError(
            "create_graph=True came through a compiled call of a head, which has first derivatives only; leave it out "
            "of torch.compile and use impl='reference' for higher ones."
        )


def _head_sum_backward(ctx: Any, upstream: Sequence[Tensor]) -> tuple[Any, ...]:
    _refuse_second_order()
    factor = upstream[0]
    gradients = (
        (gradient.to(factor.dtype) * factor).to(gradient.dtype) if wants else None
        for gradient, wants in zip(ctx.saved_tensors, ctx.wanted, strict=True)
    )
    return (*gradients, *[None] * (_COUNT - len(LEARNED)), *ctx.nothing)


def _head_rows(*arguments: Any) -> list[Tensor]:
    given, (call, which, whole, _, _, shape) = arguments[:_COUNT], arguments[_COUNT:]
    lines = given[1].new_zeros(Notes.MOST, math.prod(shape), dtype=statistics_dtype(given[1]))
    with torch.no_grad(), noting(Notes(lines, made=False)):
        _, values = _evaluated(given, call, which, whole, [False] * len(LEARNED))
    return [*(value.detach().clone(memory_format=torch.contiguous_format) for value in values), lines]


def _head_rows_fake(*arguments: Any) -> list[Tensor]:
    given, (_, _, _, rowwise, counts, shape) = arguments[:_COUNT], arguments[_COUNT:]
    dtype = statistics_dtype(given[1])
    values = [
        given[1].new_empty(shape if rows else (), dtype=torch.int64 if count else dtype)
        for rows, count in zip(rowwise, counts, strict=True)
    ]
    return [*values, given[1].new_empty(Notes.MOST, math.prod(shape), dtype=dtype)]


def _head_rows_context(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    given, (ctx.call, ctx.which, ctx.whole, *_) = inputs[:_COUNT], inputs[_COUNT:]
    ctx.nothing = _nothing(inputs[_COUNT:])
    ctx.save_for_backward(*given, output[-1])


def _head_rows_gradients(ctx: Any, upstream: Sequence[Tensor]) -> tuple[Any, ...]:
    _refuse_second_order()
    wanted = list(ctx.needs_input_grad[: len(LEARNED)])
    *given, notes = ctx.saved_tensors
    gradients = torch.ops.lightning_losses.head_rows_backward(
        *given, ctx.call, ctx.which, ctx.whole, list(upstream[:-1]), notes, wanted
    )
    own = (gradient if wants else None for gradient, wants in zip(gradients, wanted, strict=True))
    return (*own, *[None] * (_COUNT - len(LEARNED)), *ctx.nothing)


def _head_rows_backward(*arguments: Any) -> list[Tensor]:
    given, (call, which, whole, upstream, notes, wanted) = arguments[:_COUNT], arguments[_COUNT:]
    with _recording(), noting(Notes(notes, made=True)):
        leaves, values = _evaluated(given, call, which, whole, wanted)
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
