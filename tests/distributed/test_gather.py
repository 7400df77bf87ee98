"""The differentiable gather of a batch."""

from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch import nn

from lightning_losses.callbacks.calibration.evaluation_logits import EvaluationLogits
from lightning_losses.mixins.epoch_means import EpochMeans
from lightning_losses.parallel.processes import gather_batch, neighbours, rows_of_all, told_by_any, world_size
from tests.distributed.processes import in_group, run_on_processes
from tests.metrics.test_every_metric import METRICS, sample

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


def what_one_process_lacks():
    """A process that has no rows, batches or steps goes along with the one that has."""
    has = dist.get_rank() == 0
    rows = torch.ones(3, 2, dtype=torch.float64)
    assert [part.shape for part in rows_of_all(rows if has else torch.zeros(0))] == [(3, 2), (0, 2)]
    assert told_by_any(None if has else "the second's") == "the second's" and told_by_any(None) is None

    means = EpochMeans()
    if has:
        means.add({"ce": torch.tensor(2.0)}, {"ce": 3.0}, {"ce": torch.tensor(5)})
    assert means.take(torch.device("cpu")) == (6.0, {"ce": 2.0}, {"ce": 5.0})

    module, collected = nn.Linear(2, 2), EvaluationLogits("test")
    trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("cpu")))
    if has:
        collected.add(module, {"logits": rows, "target": torch.tensor([0, -100, 1])}, dataloader_idx=1)
    gathered = collected.gather(trainer, None)
    assert (
        gathered.keys() == {1} and gathered[1].logits.tolist() == [[1, 1]] * 2 and gathered[1].target.tolist() == [0, 1]
    )

    for name, (make, function) in METRICS.items():
        metric, (logits, target) = make(inputs="logits"), sample(40)
        if has:
            metric.update(logits, target)
        torch.testing.assert_close(metric.compute(), function(logits, target, inputs="logits"), msg=name)


def on_two_processes():
    mappings_scalars_and_integers()
    what_one_process_lacks()


def groups_of_neighbours():
    rank, generator = dist.get_rank(), torch.Generator().manual_seed(0)
    rows = torch.randn(10, 3, generator=generator, dtype=torch.float64).split([3, 2, 1, 4])
    weight = torch.arange(3.0, dtype=torch.float64).requires_grad_()
    value = gather_batch(rows[rank] @ weight, neighbours(2)).logsumexp(dim=0)
    value.backward()
    # As DDP and FSDP2 average.
    average = torch.stack([value.detach(), *weight.grad])
    dist.all_reduce(average)
    alone = weight.detach().clone().requires_grad_()
    losses = [(torch.cat(pair) @ alone).logsumexp(dim=0) for pair in (rows[:2], rows[2:])]
    mean = torch.stack(losses).mean()
    mean.backward()
    # Sums of float64 in another order.
    torch.testing.assert_close(average / 4, torch.stack([mean.detach(), *alone.grad]), rtol=1e-12, atol=1e-12)
    assert neighbours(2) is neighbours(2)
    with pytest.raises(ValueError, match="gather_batches=3 came with 4 processes; give a divisor"):
        neighbours(3)


def test_gathers_among_neighbours_give_the_mean_of_the_groups_losses():
    run_on_processes(in_group, 4, groups_of_neighbours)


def test_uneven_batches_and_their_gradient_on_three_processes():
    run_on_processes(in_group, 3, uneven_batches)


# Of torchmetrics, on the process that has no rows.
@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric:UserWarning")
def test_mappings_and_what_one_process_lacks_on_two_processes():
    run_on_processes(in_group, 2, on_two_processes)


def test_failure_in_a_process_is_a_failure_here():
    def fail():
        raise RuntimeError("as intended")

    with pytest.raises(AssertionError, match="RuntimeError: as intended"):
        run_on_processes(fail, 2)
