"""Losses of other libraries that couple the batch: two processes have the loss and the gradients of one."""

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from lightning_losses import Objective, Term
from lightning_losses.modules import Classifier
from tests.distributed.processes import Sharded, one_step

pytestmark = pytest.mark.distributed

OBJECTIVES = Path(__file__).parents[2] / "conf" / "objective"


class Network(Sharded, Classifier):
    """A classifier that FSDP2 can shard."""


def every_output(logits: torch.Tensor) -> torch.Tensor:
    # DDP waits for a gradient of every parameter, also of the head that losses of features leave out.
    return 0.0 * logits.sum()


def network(name: str, *, gather: bool = True) -> Network:
    torch.manual_seed(0)
    term = instantiate(OmegaConf.load(OBJECTIVES / f"{name}.yaml")).terms[name]
    assert term.batch_coupled
    layers = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    module = Network(layers, Objective({name: term, "every_output": Term(every_output)}), 3, feature_layer="1")
    module.gather_batches = gather
    return module


def batch(rows: slice) -> dict[str, torch.Tensor]:
    inputs = torch.randn(10, 4, generator=torch.Generator().manual_seed(1))
    return {"inputs": 2 * inputs[rows], "target": (torch.arange(10) % 3)[rows]}


# Sixty-forty: a mean of the processes' own losses, or a factor of the world size, would be seen.
SHARDS = [[batch(slice(0, 6))], [batch(slice(6, 10))]]


def assert_equal(several, one):
    # Float32 rounding of sums in another order; a wrong factor of the world size would be off by 100%.
    torch.testing.assert_close(several["loss"], one["loss"], rtol=1e-5, atol=1e-7)
    assert several["gradients"].keys() == one["gradients"].keys()
    for name, gradient in one["gradients"].items():
        torch.testing.assert_close(several["gradients"][name], gradient, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize(
    ("name", "strategy"), [("supcon", "ddp"), ("supcon", "fsdp2"), ("triplet_margin", "ddp"), ("two_way", "ddp")]
)
def test_two_processes_equal_one(name, strategy, tmp_path):
    one = one_step(lambda: network(name), [[batch(slice(0, 10))]], tmp_path)
    assert any(gradient.abs().max() > 1e-5 for gradient in one["gradients"].values())
    assert_equal(one_step(lambda: network(name), SHARDS, tmp_path, strategy), one)


def test_without_the_gather_it_is_another_loss(tmp_path):
    one = one_step(lambda: network("supcon", gather=False), [[batch(slice(0, 10))]], tmp_path)
    two = one_step(lambda: network("supcon", gather=False), SHARDS, tmp_path)
    with pytest.raises(AssertionError):
        assert_equal(two, one)
