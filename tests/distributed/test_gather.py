"""The differentiable gather of a batch."""

import pytest
import torch
import torch.distributed as dist

from lightning_losses.distributed import gather_batch, world_size
from tests.distributed.processes import in_group, run_on_processes

pytestmark = pytest.mark.distributed


def test_alone_it_is_the_identity():
    value = torch.randn(3, 2)
    assert gather_batch(value) is value
    assert gather_batch(0.5) == 0.5
    assert world_size() == 1


def uneven_batches():
    rank, sizes = dist.get_rank(), [2, 3, 0]
    whole = torch.arange(10.0).reshape(5, 2)
    own = whole.split(sizes)[rank].clone().requires_grad_()
    gathered = gather_batch(own)
    assert torch.equal(gathered, whole)
    # Every process computes the same loss: the sum over processes of its gradients is world_size times one process's.
    gathered.square().sum().backward()
    assert torch.equal(own.grad, world_size() * 2 * own.detach())


def mappings_scalars_and_integers():
    rank = dist.get_rank()
    gathered = gather_batch({"target": torch.tensor([rank]), "features": torch.full((1, 2, 2), float(rank))})
    assert gathered["target"].tolist() == [0, 1]
    assert gathered["features"].shape == (2, 2, 2)
    assert gather_batch(0.25) == 0.25
    assert gather_batch(torch.tensor(0.25)) == 0.25
    assert gather_batch(torch.ones(1, 2, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert not gather_batch(torch.ones(1, 2)).requires_grad


def test_uneven_batches_and_their_gradient_on_three_processes():
    run_on_processes(in_group, 3, uneven_batches)


def test_mappings_scalars_and_integers_on_two_processes():
    run_on_processes(in_group, 2, mappings_scalars_and_integers)


def test_failure_in_a_process_is_a_failure_here():
    def fail():
        raise RuntimeError("as intended")

    with pytest.raises(AssertionError, match="RuntimeError: as intended"):
        run_on_processes(fail, 2)
