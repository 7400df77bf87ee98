"""Sums over whole tensors and copies of them, of FSDP2's shards and of plain tensors."""

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from lightning_losses.parallel import sharding
from lightning_losses.parallel.sharding import local_part, refuse_flat_parameters, shard_like, whole, whole_dots
from tests.distributed.processes import in_group, run_on_processes


def test_dots_of_plain_tensors_are_in_double_precision(monkeypatch):
    monkeypatch.setattr(sharding, "_PART", 1000)
    # bfloat16's 0.1, squared: a sum in bfloat16 would stop growing at 2. Squares of the others leave float32's range.
    tensors = [torch.full((4096,), 0.1, dtype=torch.bfloat16), torch.randn(3, 3).T * 1e-25, torch.full((7,), 1e20)]
    wanted = torch.stack([tensor.double().square().sum() for tensor in tensors])
    torch.testing.assert_close(whole_dots(tensors, tensors), wanted, rtol=1e-12, atol=0)
    assert whole_dots([torch.zeros(0, 3)], [torch.zeros(0, 3)]).tolist() == [0]


def test_plain_tensors_are_their_own_parts():
    tensor = torch.ones(2)
    assert local_part(tensor) is tensor and whole(tensor) is tensor and shard_like(tensor, tensor) is tensor


def on_two_processes():
    torch.manual_seed(0)
    mesh = init_device_mesh("cpu", (2,))
    plain = [torch.randn(5, 3), torch.randn(1), torch.randn(4)]
    placements = [[Shard(0)], [Shard(0)], [Replicate()]]
    tensors = [distribute_tensor(tensor, mesh, placing) for tensor, placing in zip(plain, placements, strict=True)]
    together = [*tensors, plain[0]]
    torch.testing.assert_close(whole_dots(together, together), whole_dots([*plain, plain[0]], [*plain, plain[0]]))
    assert local_part(tensors[0]).shape[0] < 5
    again = shard_like(whole(tensors[0]), tensors[0])
    assert isinstance(again, DTensor) and torch.equal(local_part(again), local_part(tensors[0]))


@pytest.mark.distributed
# Of torch 2.6; nothing random is drawn.
@pytest.mark.filterwarnings("ignore:DTensor random operators")
def test_shards_sum_to_the_whole():
    run_on_processes(in_group, 2, on_two_processes)


def fsdp1():
    module = FullyShardedDataParallel(nn.Linear(2, 2), device_id=torch.device("cpu"))
    with pytest.raises(ValueError, match="FSDP1"):
        refuse_flat_parameters("who", nn.ModuleList([module]).modules())


@pytest.mark.distributed
def test_flat_parameters_are_refused():
    run_on_processes(in_group, 2, fsdp1)


def test_other_modules_pass():
    modules = iter(nn.Sequential(nn.Linear(2, 2)).modules())
    refuse_flat_parameters("who", modules)
    # All of them were looked at.
    assert next(modules, None) is None
