"""Sums over whole tensors, and copies of them, where FSDP2 leaves each process a shard."""

from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from lightning_losses.tensors import full_precision


def local_part(tensor: Tensor) -> Tensor:
    """The elements that this process holds: a view of its shard, or the tensor itself.

    Example:
        >>> local_part(torch.ones(2))
        tensor([1., 1.])
    """
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """The tensor with all elements, gathered from every shard; each process of its mesh must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shard_like(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor on the device of `like`, sharded as `like` is; each process of its mesh must call this."""
    tensor = tensor.to(like.device)
    return distribute_tensor(tensor, like.device_mesh, like.placements) if isinstance(like, DTensor) else tensor


def whole_dots(left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
    """``<left_i, right_i>`` of each pair over all elements, in full precision, without a device synchronisation.

    Pairs sharded over the same mesh share one reduction.

    Args:
        left: n tensors, one of each pair.
        right: n tensors of the same shapes, sharded alike.

    Returns:
        [n], the same on every process.

    Example:
        >>> whole_dots([torch.ones(2, 2), torch.zeros(1)], [torch.ones(2, 2), torch.ones(1)])
        tensor([4., 0.])
    """
    if not left:
        return torch.zeros(0)
    products = [
        (full_precision(local_part(a)) * full_precision(local_part(b))).sum() for a, b in zip(left, right, strict=True)
    ]
    dots = torch.stack([product.to(products[0].dtype) for product in products])
    for mesh, dimension, members in _shard_groups(left):
        chosen = torch.tensor(members, device=dots.device)
        part = dots[chosen]
        dist.all_reduce(part, group=mesh.get_group(dimension))
        dots = dots.index_copy(0, chosen, part)
    return dots


def refuse_flat_parameters(who: str, modules: Iterable[nn.Module]) -> None:
    """Raise ``ValueError`` if FSDP1 wraps some module: its flat parameters mix several tensors."""
    for module in modules:
        if any(kind.__name__ == "FullyShardedDataParallel" for kind in type(module).__mro__):
            raise ValueError(
                f"{who}: the module is wrapped by FSDP1, whose flat parameters hide the tensors' bounds; "
                "use FSDP2 (fully_shard, Lightning's ModelParallelStrategy) or DDP."
            )


def _shard_groups(tensors: Sequence[Tensor]) -> list[tuple[DeviceMesh, int, list[int]]]:
    """Which tensors are sharded over which dimension of which mesh."""
    groups: dict[tuple[DeviceMesh, int], list[int]] = {}
    for position, tensor in enumerate(tensors):
        if isinstance(tensor, DTensor):
            for dimension, placement in enumerate(tensor.placements):
                if isinstance(placement, Shard):
                    groups.setdefault((tensor.device_mesh, dimension), []).append(position)
    return [(mesh, dimension, members) for (mesh, dimension), members in groups.items()]
