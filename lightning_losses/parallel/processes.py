"""Communication between processes; the only file that uses `torch.distributed`."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.parameter import is_lazy


def world_size() -> int:
    """The number of processes; 1 outside a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_distributed_tensor(value: Any) -> bool:
    """Whether a value is a DTensor, like the parameters of FSDP2 and tensor parallelism.

    Example:
        >>> is_distributed_tensor(torch.zeros(2))
        False
    """
    # If there is a DTensor, this module is imported; importing it here would slow every start by a second.
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(value, module.DTensor)


def row_shard(tensor: Any) -> tuple[Any, Any]:
    """This process's rows of a DTensor split by rows over a 1-D mesh, differentiably, and the mesh's process group.

    Any other tensor is its own shard in the default group.

    Raises:
        ValueError: a DTensor with another placement.
    """
    if not is_distributed_tensor(tensor):
        return tensor, None
    if tensor.device_mesh.ndim != 1 or not tensor.placements[0].is_shard(0):
        raise ValueError(
            f"row_shard: a DTensor placed as {tensor.placements} came; give one that is Shard(0) on a 1-D "
            "mesh, or its full_tensor()."
        )
    return tensor.to_local(), tensor.device_mesh.get_group()


def even_rows(tensor: Any) -> tuple[int, ...] | None:
    """The number of rows of a row-split DTensor on each process; None for anything else."""
    if not is_distributed_tensor(tensor):
        return None
    rows, processes = tensor.shape[0], tensor.device_mesh.size()
    share = -(-rows // processes)
    return tuple(max(min(share, rows - share * rank), 0) for rank in range(processes))


def whole_parameter(parameter: Tensor) -> Tensor:
    """The whole of a parameter sharded by FSDP2; its gradient is averaged over the processes like FSDP2's.

    For parameters that are used outside their module's forward, where FSDP2 doesn't gather them. Other tensors are
    returned unchanged.

    Example:
        >>> weight = torch.zeros(2)
        >>> whole_parameter(weight) is weight
        True
    """
    if not is_distributed_tensor(parameter):
        return parameter
    module = sys.modules["torch.distributed.tensor"]
    whole = parameter.full_tensor(grad_placements=[module.Partial()] * parameter.device_mesh.ndim)  # type: ignore[attr-defined]
    return _DivideGradient.apply(whole, parameter.device_mesh.size())  # type: ignore[attr-defined]


class _DivideGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, by: int) -> Tensor:
        ctx.by = by
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient / ctx.by, None


def refuse_unknown_shapes(who: str, module: nn.Module) -> None:
    """Raise ``ValueError`` for parameters without shapes until the first batch: several processes need them before."""
    for name, parameter in module.named_parameters():
        if is_lazy(parameter):
            raise ValueError(
                f"{who}: the shape of {name} isn't known before the first batch, and several processes need it before; "
                "give the loss its sizes, a ready module example_inputs=, or call Objective.materialize with a batch's "
                "tensors."
            )


def sizes_of_all(size: int, device: torch.device, group: Any = None) -> list[int]:
    """The number of every process, in rank order.

    Example:
        >>> sizes_of_all(3, torch.device("cpu"))
        [3]
    """
    if world_size() == 1:
        return [size]
    gathered = [torch.empty(1, dtype=torch.int64, device=device) for _ in range(dist.get_world_size(group))]
    dist.all_gather(gathered, torch.tensor([size], device=device), group)
    return [int(other) for other in gathered]


def values_on_first(value: Any) -> list[Any]:
    """The plain value of every process, in rank order, on the first process; nothing on the others.

    All processes must call it together. Tensors in the value must be on the CPU.

    Example:
        >>> values_on_first({"batches": 3})
        [{'batches': 3}]
    """
    if world_size() == 1:
        return [value]
    gathered = [None] * world_size() if dist.get_rank() == 0 else None
    dist.gather_object(value, gathered)
    return gathered or []


def values_of_all(value: Any, group: Any = None) -> list[Any]:
    """The plain value of every process of a group, in rank order, on every one of them.

    All processes must call it together. Tensors in the value must be on the CPU.

    Example:
        >>> values_of_all({"batches": 3})
        [{'batches': 3}]
    """
    if world_size() == 1:
        return [value]
    gathered: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(gathered, value, group)
    return gathered


def value_of_first(value: Any) -> Any:
    """A plain value of the first process, on every process.

    All processes must call it together.

    Example:
        >>> value_of_first({"batches": 3})
        {'batches': 3}
    """
    if world_size() == 1:
        return value
    holder = [value]
    dist.broadcast_object_list(holder, src=0)
    return holder[0]


def told_by_any(sentence: str | None) -> str | None:
    """The sentence of the first process that has one, on every process; None if none has.

    It serves for errors of a single process: all processes then raise, and none waits for the one that did. All
    processes must call it together.

    Example:
        >>> told_by_any("the disk is full"), told_by_any(None)
        ('the disk is full', None)
    """
    return next(filter(None, values_of_all(sentence)), None)


def group_rank(group: Any = None) -> int:
    """This process's rank in a group; 0 outside a group."""
    return dist.get_rank(group) if world_size() > 1 else 0


def total_of_all(values: Tensor, group: Any = None) -> Tensor:
    """The sum over all processes, without gradient."""
    return _all_reduce(values, dist.ReduceOp.SUM, group)


def maximum_of_all(values: Tensor, group: Any = None) -> Tensor:
    """The maximum over all processes, without gradient."""
    return _all_reduce(values, dist.ReduceOp.MAX, group)


def _all_reduce(values: Tensor, operation: Any, group: Any) -> Tensor:
    if world_size() == 1:
        return values
    values = values.detach().clone()
    dist.all_reduce(values, operation, group)
    return values


def neighbours(processes: int) -> Any:
    """The group of this process among groups of consecutive ranks; all processes must call it together.

    Raises:
        ValueError: a number that doesn't divide the number of processes.
    """
    if processes < 1 or world_size() % processes:
        raise ValueError(
            f"gather_batches={processes} came with {world_size()} processes; give a divisor of their number, True for "
            "all of them, or False."
        )
    world = dist.group.WORLD
    if (world, processes) not in _groups:
        for gone in [key for key in _groups if key[0] is not world]:
            del _groups[gone]
        _groups[world, processes], _ = dist.new_subgroups(processes)
    return _groups[world, processes]


# This process's groups, by world; making groups is a collective operation, done once.
_groups: dict[tuple[Any, int], Any] = {}


def gather_batch(value: Any, group: Any = None) -> Any:
    """Concatenate every process's batch along the first dimension, differentiably.

    On each process the result is the same, in rank order; processes may hold different numbers of rows. If every
    process computes the same loss of the gathered batch, the parameter gradients after DDP's or FSDP2's averaging are
    those of one process with the whole batch: the backward pass sums each row's gradients over the world, and the
    averaging divides by the world size. Outside a process group, and for anything but tensors with a first dimension
    and mappings of them (scalars such as `progress`), the result is the value itself.

    Args:
        value: [B, ...] tensor, {name: [B, ...] tensor}, or a scalar.
        group: the processes to gather from, such as that of `neighbours`; None: all. With a group, the gradients after
            averaging are those of the mean of the groups' losses.

    Example:
        >>> gather_batch(torch.zeros(2, 3)).shape
        torch.Size([2, 3])
    """
    if world_size() == 1:
        return value
    if isinstance(value, Mapping):
        return {name: gather_batch(tensor, group) for name, tensor in value.items()}
    if not isinstance(value, Tensor) or value.ndim == 0:
        return value
    return _GatherBatch.apply(value, group)


def rows_of_all(rows: Tensor, group: Any = None) -> list[Tensor]:
    """The rows of every process of a group, in rank order, on every one of them, without gradient.

    A process that has none may not know of which type the others' are, nor their width.

    Example:
        >>> rows_of_all(torch.ones(2))
        [tensor([1., 1.])]
    """
    kinds = values_of_all((len(rows), rows.shape[1:], rows.dtype), group)
    _, width, dtype = next((kind for kind in kinds if kind[0]), kinds[0])
    own = rows.detach() if len(rows) else torch.zeros(0, *width, dtype=dtype, device=rows.device)
    gathered: Tensor = gather_batch(own, group)
    return list(torch.split(gathered, [kind[0] for kind in kinds]))


class _GatherBatch(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, group: Any) -> Tensor:
        sizes = sizes_of_all(value.shape[0], value.device, group)
        # all_gather needs equal shapes: shorter batches are padded, and the padding is removed afterwards.
        padding = value.new_zeros(max(sizes) - value.shape[0], *value.shape[1:])
        padded = torch.cat([value, padding]) if len(padding) else value.contiguous()
        pieces = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(pieces, padded, group)
        ctx.start = sum(sizes[: dist.get_rank(group)])
        ctx.size = value.shape[0]
        ctx.group = group
        return torch.cat([piece[:size] for piece, size in zip(pieces, sizes, strict=True)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.contiguous().clone()
        dist.all_reduce(total, group=ctx.group)
        return total[ctx.start : ctx.start + ctx.size], None


class Share(NamedTuple):
    """This process's place among those that share a computation; the first of one, where nothing is shared."""

    rank: int
    processes: int
    group: Any


_SHARING: ContextVar[Any] = ContextVar("sharing", default=False)


@contextmanager
def same_on_all(group: Any = None) -> Iterator[None]:
    """Within this context, all processes of the group compute the same of the same tensors, and may share the work.

    What is computed of a gathered batch is of that kind: `gather_batch` adds the gradients of all processes, and DDP
    averages those of parameters, so that each process may make its part of them, times their number.
    """
    token = _SHARING.set(group)
    try:
        yield
    finally:
        _SHARING.reset(token)


@contextmanager
def each_alone() -> Iterator[None]:
    """Within this context, each process computes something else, or all of it."""
    with same_on_all(False):
        yield


def work_share() -> Share:
    """This process's share of what all of them compute alike.

    Example:
        >>> work_share()
        Share(rank=0, processes=1, group=None)
    """
    if torch.compiler.is_compiling() or world_size() == 1 or (group := _SHARING.get()) is False:
        return Share(0, 1, None)
    return Share(dist.get_rank(group), dist.get_world_size(group), group)
