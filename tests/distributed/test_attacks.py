"""Attacks on two processes: a row is attacked as on one, training goes on as without, and no process waits."""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from lightning_losses.attacks import PGD, PMA
from tests.attacks.networks import assert_same_state, batch, convolutional, state
from tests.distributed.processes import in_group, run_on_processes

pytestmark = pytest.mark.distributed

ATTACK = PGD(epsilon=0.05, step_size=0.02, steps=3, random_start="none")


def own_rows(*tensors):
    """This process's share, of unlike sizes."""
    return [tensor.split([9, 3])[dist.get_rank()] for tensor in tensors]


def case():
    network = convolutional(torch.float64)
    # Training steps before must not change what an attack sees.
    network[1].momentum = 0.0
    return network, *batch(dtype=torch.float64)


def beneath_ddp():
    network, inputs, target = case()
    expected = own_rows(ATTACK(network, inputs, target))[0]
    inputs, target = own_rows(inputs, target)
    wrapped = DistributedDataParallel(network)
    # Once on one process alone: whoever waited for the other would hang.
    if dist.get_rank() == 0:
        torch.testing.assert_close(ATTACK(wrapped, inputs, target), expected, rtol=0, atol=1e-12)

    def gradients(attacked):
        network.zero_grad()
        torch.manual_seed(dist.get_rank())
        loss = nn.functional.cross_entropy(wrapped(inputs), target)
        if attacked:
            # Between forward and backward, which DDP prepares for.
            before = state(network)
            torch.testing.assert_close(ATTACK(wrapped, inputs, target), expected, rtol=0, atol=1e-12)
            # Rows leave on one process sooner than on the other.
            for given in (wrapped, nn.Sequential(wrapped)):
                PMA(epsilon=0.1, steps=4 + 3 * dist.get_rank())(given, inputs, target)
            assert_same_state(before, state(network))
        loss.backward()
        return [parameter.grad.clone() for parameter in network.parameters()]

    for one, other in zip(gradients(False), gradients(True), strict=True):
        assert torch.equal(one, other)


def beneath_fsdp2():
    network, inputs, target = case()
    expected = own_rows(ATTACK(network, inputs, target))[0]
    inputs, target = own_rows(inputs, target)
    fully_shard(network)

    def gradients(attacked):
        network.zero_grad()
        torch.manual_seed(dist.get_rank())
        if attacked:
            torch.testing.assert_close(ATTACK(network, inputs, target), expected, rtol=0, atol=1e-12)
            assert all(p.grad is None and p.requires_grad for p in network.parameters())
        nn.functional.cross_entropy(network(inputs), target).backward()
        return [parameter.grad.full_tensor() for parameter in network.parameters()]

    first = gradients(True)
    for one, other in zip(first, gradients(False), strict=True):
        assert torch.equal(one, other)
    for one, other in zip(first, gradients(True), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(ValueError, match="stop_when_fooled came with a sharded network"):
        PMA()(network, inputs, target)


@pytest.mark.parametrize("wrapping", [beneath_ddp, beneath_fsdp2])
def test_on_two_processes(wrapping):
    run_on_processes(in_group, 2, wrapping)
