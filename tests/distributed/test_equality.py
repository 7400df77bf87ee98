"""Every batch-coupled loss gives the gradient of one process with the whole batch, under DDP and under FSDP2.

The losses are found by themselves: one that is added is covered by its class attribute and its configuration.
"""

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from lightning_losses import KD, CrossEntropy, Objective, Term
from lightning_losses.losses import loss_classes
from lightning_losses.modules import Distiller
from tests.distributed.processes import Sharded, one_step

pytestmark = pytest.mark.distributed

CONFIGURATIONS = Path(__file__).parents[2] / "conf" / "objective"
COUPLED = sorted({loss.identifier() for loss in loss_classes() if loss.batch_coupled})


class Student(Sharded, Distiller):
    """A student that FSDP2 can shard."""


def coupled_terms(identifier: str) -> Objective:
    configuration = OmegaConf.create(
        {"data": {"num_classes": 3}, "objective": OmegaConf.load(CONFIGURATIONS / f"{identifier}.yaml")}
    )
    objective = instantiate(configuration.objective)
    terms = {name: term for name, term in objective.terms.items() if term.batch_coupled}
    assert terms, f"conf/objective/{identifier}.yaml has no batch-coupled term"
    # DDP waits for a gradient of every parameter, also of the head that losses of features leave out.
    return Objective({**terms, "every_output": Term(nothing)})


def nothing(logits: torch.Tensor) -> torch.Tensor:
    return 0.0 * logits.sum()


def student(objective: Objective) -> Student:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    return Student(
        nn.Sequential(nn.Linear(4, 3)),
        teacher_layer="0",
        network=network,
        objective=objective,
        num_classes=3,
        optimizer=lambda parameters: torch.optim.SGD(parameters, 0.1),
        feature_layer="1",
        example_inputs=torch.zeros(2, 4),
    )


def sinkd() -> Student:
    return student(coupled_terms("sinkd"))


def batch(rows: slice) -> dict[str, torch.Tensor]:
    inputs = torch.randn(10, 4, generator=torch.Generator().manual_seed(1))
    return {"inputs": 2 * inputs[rows], "target": (torch.arange(10) % 3)[rows], "index": torch.arange(10)[rows]}


def assert_equal(several, one):
    # Float32 rounding of sums in another order; a wrong factor of the world size would be off by 100%.
    torch.testing.assert_close(several["loss"], one["loss"], rtol=1e-5, atol=1e-7)
    assert several["gradients"].keys() == one["gradients"].keys()
    for name, gradient in one["gradients"].items():
        torch.testing.assert_close(several["gradients"][name], gradient, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("identifier", COUPLED)
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes_equal_one(identifier, strategy, tmp_path):
    one = one_step(lambda: student(coupled_terms(identifier)), [[batch(slice(0, 10))]], tmp_path)
    assert any(gradient.abs().max() > 1e-5 for gradient in one["gradients"].values())
    shards = [[batch(slice(0, 6))], [batch(slice(6, 10))]]
    assert_equal(one_step(lambda: student(coupled_terms(identifier)), shards, tmp_path, strategy), one)


def test_sinkd_on_four_processes_equals_one(tmp_path):
    one = one_step(sinkd, [[batch(slice(0, 10))]], tmp_path)
    shards = [[batch(slice(*rows))] for rows in [(0, 3), (3, 6), (6, 8), (8, 10)]]
    assert_equal(one_step(sinkd, shards, tmp_path), one)


def test_local_batches_differ(tmp_path):
    """Without the gather the loss is another one: the tests above can fail."""

    def local() -> Student:
        module = sinkd()
        module.gather_batches = False
        return module

    one = one_step(local, [[batch(slice(0, 10))]], tmp_path)
    two = one_step(local, [[batch(slice(0, 6))], [batch(slice(6, 10))]], tmp_path)
    with pytest.raises(AssertionError):
        assert_equal(two, one)


def test_accumulated_batches_equal_on_one_and_on_two_processes(tmp_path):
    one = one_step(sinkd, [[batch(slice(0, 6)), batch(slice(4, 10))]], tmp_path, accumulate=2)
    shards = [[batch(slice(0, 3)), batch(slice(4, 7))], [batch(slice(3, 6)), batch(slice(7, 10))]]
    two = one_step(sinkd, shards, tmp_path, accumulate=2)
    for name, gradient in one["gradients"].items():
        torch.testing.assert_close(two["gradients"][name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_means_over_unequal_numbers_of_kept_samples_equal_one_process(tmp_path):
    def ignoring() -> Student:
        return student(
            Objective({"ce": CrossEntropy(), "weighted": CrossEntropy(class_weight=[1.0, 2.0, 5.0]), "kd": KD(2.0)})
        )

    whole = batch(slice(0, 10))
    whole["target"][[0, 1, 2, 7]] = -100
    one = one_step(ignoring, [[whole]], tmp_path)
    shards = [[{name: tensor[rows] for name, tensor in whole.items()}] for rows in (slice(0, 4), slice(4, 10))]
    assert_equal(one_step(ignoring, shards, tmp_path), one)
