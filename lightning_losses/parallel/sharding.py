"""Modules sharded by FSDP2: sharding, sums over whole tensors, whole copies."""

import copy
import os
import pickle
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.checkpoint.state_dict_loader import load as load_folder
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from lightning_losses.environment.atomic_files import refused_number
from lightning_losses.environment.file_digests import check_digest
from lightning_losses.parallel.processes import value_of_first
from lightning_losses.parallel.sharded_folders import check_folder

# Elements of a tensor that are in double precision at once.
_PART = 1 << 22


def local_part(tensor: Tensor) -> Tensor:
    """The elements on this process: a view of its shard, or the tensor itself.

    Example:
        >>> local_part(torch.ones(2))
        tensor([1., 1.])
    """
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """The whole tensor, gathered from all shards; each process of its mesh must call it.

    A tensor offloaded to the CPU is returned on the mesh's device.
    """
    if not isinstance(tensor, DTensor):
        return tensor
    gathered: Tensor = tensor.to(tensor.device_mesh.device_type).full_tensor()  # type: ignore[attr-defined]
    return gathered


def shard_like(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor on the device of `like`, sharded like it; each process of its mesh must call it."""
    tensor = tensor.to(like.device)
    return distribute_tensor(tensor, like.device_mesh, like.placements) if isinstance(like, DTensor) else tensor


def whole_dots(left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
    """``<left_i, right_i>`` of each pair over all elements, in double precision, without synchronisation.

    Squares of float32 would overflow beyond 1e19, and underflow below 1e-19, as gradients do that vanish. Pairs sharded
    over the same mesh share one reduction.

    Args:
        left: n tensors, one of each pair.
        right: n tensors with the same shapes and sharding.

    Returns:
        [n], the same on every process; in float32 on a device without double precision.

    Example:
        >>> whole_dots([torch.ones(2, 2), torch.zeros(1)], [torch.ones(2, 2), torch.ones(1)])
        tensor([4., 0.], dtype=torch.float64)
    """
    if not left:
        return torch.zeros(0, dtype=torch.float64)
    dots = torch.stack([_dot(local_part(a), local_part(b)) for a, b in zip(left, right, strict=True)])
    for mesh, dimension, members in _shard_groups(left):
        chosen = torch.tensor(members, device=dots.device)
        part = dots[chosen]
        dist.all_reduce(part, group=mesh.get_group(dimension))
        dots = dots.index_copy(0, chosen, part)
    return dots


def wide_type(tensor: Tensor) -> torch.dtype:
    """The widest type of a tensor's device: float64, which Apple's GPUs lack.

    Example:
        >>> wide_type(torch.ones(2))
        torch.float64
    """
    return torch.float32 if tensor.device.type == "mps" else torch.float64


def _dot(left: Tensor, right: Tensor) -> Tensor:
    wide = wide_type(left)
    parts = zip(torch.split(left.reshape(-1), _PART), torch.split(right.reshape(-1), _PART), strict=True)
    return torch.stack([(a.to(wide) * b.to(wide)).sum() for a, b in parts]).sum()


def shard_children(
    module: nn.Module, blocks: Sequence[nn.Module], mesh: DeviceMesh, *, reshard: bool | None, offload: bool
) -> None:
    """Shard every child that has parameters with FSDP2: each block separately, then the rest of the child.

    Args:
        module: a module whose children are called, such as the network and the objective of a LightningModule; for a
            list or a mapping of modules, its members are called.
        blocks: parts of the children that are gathered one after another.
        mesh: a one-dimensional mesh.
        reshard: whether parameters are freed between forward and backward pass; None: only those of blocks.
        offload: whether shards, gradients and optimizer states stay in host memory.

    Raises:
        ValueError: a parameter of the module itself, or of a list of parameters, which no call of a child would gather.
    """
    for name, _ in module.named_parameters(recurse=False):
        raise ValueError(
            f"fsdp: the parameter {name} belongs to {type(module).__name__} itself, where FSDP2 would not gather it; "
            "put it into a submodule."
        )
    policy = CPUOffloadPolicy(pin_memory=mesh.device_type != "cpu") if offload else OffloadPolicy()
    options = {"mesh": mesh, "reshard_after_forward": reshard, "offload_policy": policy}
    for block in blocks:
        fully_shard(block, **options)  # type: ignore[call-overload]
    for child in called_children(module):
        if not isinstance(child, FSDPModule) and next(child.parameters(), None) is not None:
            fully_shard(child, **options)  # type: ignore[call-overload]


def called_children(module: nn.Module) -> Iterator[nn.Module]:
    """The children of a module that have a forward pass; a list or a mapping of modules is replaced by its members.

    Raises:
        ValueError: a list or a mapping of parameters.

    Example:
        >>> pair = nn.ModuleDict({"a": nn.Tanh(), "more": nn.ModuleList([nn.ReLU(), nn.Linear(2, 2)])})
        >>> [type(child).__name__ for child in called_children(pair)]
        ['Tanh', 'ReLU', 'Linear']
    """
    for name, child in module.named_children():
        if isinstance(child, nn.ParameterList | nn.ParameterDict):
            raise ValueError(
                f"fsdp: {name} is a {type(child).__name__}, which no call would gather; put it into a module that "
                "uses it in its forward."
            )
        if isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield from called_children(child)
        else:
            yield child


def is_sharded(module: nn.Module) -> bool:
    """Whether FSDP2 shards some part of a module."""
    return any(isinstance(part, FSDPModule) for part in module.modules())


def unsharded_copy(module: nn.Module) -> nn.Module:
    """A copy with whole parameters and buffers, and with the modules' classes from before FSDP2.

    Each process of the mesh must call it. Anything other than modules, parameters and buffers is shared with the
    original. Hooks are kept, except those of FSDP2. A module that isn't sharded is copied in the same way.

    Args:
        module: a module in training or evaluation mode, between forward passes.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> twin = unsharded_copy(layer)
        >>> torch.equal(twin.weight, layer.weight), twin.weight is layer.weight
        (True, False)
    """
    copies: dict[int, Any] = {}

    def tensor_copy(tensor: Tensor | None) -> Tensor | None:
        if tensor is None:
            return None
        if id(tensor) not in copies:
            full = whole(tensor.detach()).clone()
            copies[id(tensor)] = (
                nn.Parameter(full, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else full
            )
        return copies[id(tensor)]

    def module_copy(part: nn.Module | None) -> nn.Module | None:
        if part is None:
            return None
        if id(part) not in copies:
            sharded = isinstance(part, FSDPModule)
            twin: nn.Module = object.__new__(type(part).__mro__[2] if sharded else type(part))
            copies[id(part)] = twin
            state = dict(part.__dict__)
            # Instance attributes that replace methods, such as a compiled forward pass, are bound to the original.
            for bound in ("forward", "configure_model"):
                state.pop(bound, None)
            # FSDP2's own record of the module.
            state = {name: value for name, value in state.items() if not name.startswith("__composable_api_state")}
            state["_compiled_call_impl"] = None
            for name, value in state.items():
                if name.startswith("_") and "hooks" in name and isinstance(value, dict):
                    state[name] = copy.copy(value)
            if sharded:
                for name in ("_forward_hooks", "_forward_pre_hooks"):
                    for key, hook in part.__dict__[name].items():
                        if type(getattr(hook, "__self__", None)).__name__ == "FSDPState":
                            del state[name][key]
            twin.__dict__.update(state)
            twin.__dict__["_parameters"] = {name: tensor_copy(value) for name, value in part._parameters.items()}
            twin.__dict__["_buffers"] = {name: tensor_copy(value) for name, value in part._buffers.items()}
            twin.__dict__["_modules"] = {name: module_copy(value) for name, value in part._modules.items()}
        return copies[id(part)]

    made = module_copy(module)
    assert made is not None
    return made


def load_weights(module: nn.Module, path: Path) -> None:
    """Load only a sharded module's weights from a checkpoint of this run, a file or a folder of shards.

    Args:
        module: a module sharded by FSDP2; every process must call it.
        path: a file, which the first process reads, or a folder of shards, which all read.

    Raises:
        ValueError: on every process, for a file that was changed or would need unpickling.
    """
    if path.is_dir():
        check_folder(path)
        weights = get_model_state_dict(module)
        load_folder({"state_dict": weights}, checkpoint_id=path)
        module.load_state_dict(weights)
        return
    content, failure = {}, ""
    if dist.get_rank() == 0:
        try:
            check_digest(path)
            content = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
        except (ValueError, pickle.UnpicklingError) as error:
            failure = f"checkpoint: {path} can't be read ({str(error).splitlines()[0]})."
    if failure := value_of_first(failure):
        raise ValueError(failure)
    set_model_state_dict(module, content, options=StateDictOptions(full_state_dict=True, broadcast_from_rank0=True))


def refuse_flat_parameters(who: str, modules: Iterable[nn.Module]) -> None:
    """Raise ``ValueError`` if FSDP1 wraps any module, because its flat parameters mix several tensors."""
    for module in modules:
        if any(kind.__name__ == "FullyShardedDataParallel" for kind in type(module).__mro__):
            raise ValueError(
                f"{who}: the module is wrapped by FSDP1, whose flat parameters hide the tensors' bounds; "
                "use FSDP2 (fully_shard, Lightning's ModelParallelStrategy) or DDP."
            )


def _shard_groups(tensors: Sequence[Tensor]) -> list[tuple[DeviceMesh, int, list[int]]]:
    """The tensors grouped by mesh and dimension of their sharding."""
    groups: dict[tuple[DeviceMesh, int], list[int]] = {}
    for position, tensor in enumerate(tensors):
        if isinstance(tensor, DTensor):
            for dimension, placement in enumerate(tensor.placements):
                if isinstance(placement, Shard):
                    groups.setdefault((tensor.device_mesh, dimension), []).append(position)
    return [(mesh, dimension, members) for (mesh, dimension), members in groups.items()]


def refusal(error: BaseException | None) -> tuple[int, str] | None:
    """The system's error number and text, if writing shards failed; None for any other error.

    Example:
        >>> refusal(OSError(28, "No space left on device"))
        (28, 'No space left on device')
    """
    if isinstance(error, CheckpointException):
        # torch reports the errors of all processes on each one.
        return next(filter(None, (refusal(failure) for failure, _ in error.failures.values())), None)
    number = refused_number(error)
    return None if number is None else (number, os.strerror(number))
