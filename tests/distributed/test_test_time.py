"""Adaptation on two processes is that of one with the whole batch."""

import os

import lightning as L
import pytest
import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from lightning_losses import CrossEntropy, Objective
from lightning_losses.callbacks import TestTimeAdaptation
from lightning_losses.modules import Classifier
from lightning_losses.test_time import EATA, SAR, Adaptation, DeYO, RobustMeanTeacher, Tent
from tests.distributed.processes import in_group, run_on_processes

BATCHES = (2 * torch.randn(3, 12, 1, 6, 6, generator=torch.Generator().manual_seed(0))).double()
# Of unequal size: sums count samples, not processes.
SHARES = [slice(0, 8), slice(8, 12)]
METHODS = {
    "tent": Tent(lr=0.05),
    "sar": SAR(0.95, lr=0.05, reset_below=0.0),
    # Of the second batch the second process has no certain sample, and takes the step all the same.
    "eata": EATA(0.85, 0.95, 1.0, source=[BATCHES[0]], lr=0.05),
    "deyo": DeYO(1.0, plpd_threshold=-0.2, destroy="occlusion", lr=0.05),
    "robust_mean_teacher": RobustMeanTeacher(
        lr=0.05, momentum=0.5, source=[(BATCHES[0], torch.arange(12) % 3)], layer="2"
    ),
    "mixed": Tent(lr=0.05),
}


def network():
    torch.manual_seed(1)
    made = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.LayerNorm(64), nn.Linear(64, 3)
    ).double()
    made.train()(torch.randn(64, 1, 6, 6, dtype=torch.float64))
    return made.eval()


def stream(name, share=slice(None), **settings):
    made = network()
    with Adaptation(made, METHODS[name], statistics="mixed" if name == "mixed" else "batch", **settings) as run:
        logits = [made(batch[share]) for batch in BATCHES]
        return torch.stack(logits), torch.cat([value.detach().flatten() for value in run.adapted.values()])


def member(folder):
    rank = dist.get_rank()
    found = {name: stream(name, SHARES[rank]) for name in METHODS}
    with pytest.raises(ValueError, match="give the network within it"), Adaptation(DistributedDataParallel(network())):
        pass
    found["alone"] = stream("tent", SHARES[rank], rank_local=True)
    torch.save(found, folder / f"{rank}.pt")


@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    run_on_processes(in_group, 2, member, folder)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("name", METHODS)
def test_two_processes_are_as_one(name, of_two):
    logits, weights = stream(name)
    torch.testing.assert_close(torch.cat([each[name][0] for each in of_two], dim=1), logits, atol=1e-9, rtol=1e-7)
    for each in of_two:
        torch.testing.assert_close(each[name][1], weights, atol=1e-9, rtol=1e-7)


def test_processes_may_adapt_by_themselves(of_two):
    for each, share in zip(of_two, SHARES, strict=True):
        logits, weights = stream("tent", share)
        torch.testing.assert_close(each["alone"][0], logits)
        torch.testing.assert_close(each["alone"][1], weights)
    assert not torch.equal(of_two[0]["alone"][1], of_two[1]["alone"][1])


def evaluated(folder, rows, **strategy):
    """The metrics of a Trainer's test, whose processes share each batch of twelve."""
    module = Classifier(network().float(), Objective({"ce": CrossEntropy()}), num_classes=3)
    target = torch.arange(36) % 3
    samples = TensorDataset(BATCHES.flatten(0, 1).float(), target)
    sampler = DistributedSampler(samples, 12 // rows, int(os.environ.get("RANK", 0)), shuffle=False)
    loader = DataLoader(samples, batch_size=rows, sampler=sampler)
    trainer = L.Trainer(
        accelerator="cpu", callbacks=[TestTimeAdaptation(METHODS["sar"])], default_root_dir=folder, logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        use_distributed_sampler=False, **strategy,
    )  # fmt: skip
    (metrics,) = trainer.test(module, loader, verbose=False)
    return metrics


def trainer_member(folder):
    metrics = evaluated(folder, 6, devices=2, strategy=DDPStrategy(process_group_backend="gloo"))
    torch.save(metrics, folder / f"metrics-{dist.get_rank()}.pt")


def test_a_trainer_tests_on_two_processes_as_on_one(tmp_path):
    run_on_processes(trainer_member, 2, tmp_path)
    expected = evaluated(tmp_path, 12, devices=1)
    for rank in range(2):
        metrics = torch.load(tmp_path / f"metrics-{rank}.pt", weights_only=True)
        assert metrics == pytest.approx(expected, abs=1e-5)
