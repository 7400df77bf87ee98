import copy

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.strategies import DDPStrategy
from torch import nn

from lightning_losses import BinaryKLNorm, CrossEntropy, Objective, Term
from lightning_losses.mixins.dual_head import auxiliary_classifier
from lightning_losses.modules import Distiller
from lightning_losses.modules.dual_head_distiller import DualHeadDistiller
from tests.distributed.processes import Sharded, one_step


def network():
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


def module(ce=1.0, aux=1.0, **options):
    torch.manual_seed(0)
    objective = Objective(
        {
            "ce": Term(CrossEntropy(), ce),
            "aux": Term(BinaryKLNorm(temperature=2.0), aux, inputs={"logits": "auxiliary_logits"}),
        }
    )
    return DualHeadDistiller(teacher=nn.Linear(4, 3), network=network(), objective=objective, num_classes=3, **options)


def batch():
    return {"inputs": torch.randn(6, 4), "target": torch.arange(6) % 3}


def test_the_loss_is_that_of_two_heads():
    student, step = module(), batch()
    feature = student.network[:2](step["inputs"])
    expected = CrossEntropy()(student.network[2](feature), step["target"])
    expected = expected + BinaryKLNorm(2.0)(student.auxiliary_head(feature), student.teacher(step["inputs"]))
    torch.testing.assert_close(student.training_step(step, 0)["loss"], expected)


@pytest.mark.parametrize("ce, aux, idle", [(1.0, 0.0, "auxiliary_head.weight"), (0.0, 1.0, "network.2.weight")])
def test_each_head_learns_from_its_own_loss(ce, aux, idle):
    student = module(ce, aux)
    student.training_step(batch(), 0)["loss"].backward()
    for name, parameter in student.named_parameters():
        if name.endswith("weight"):
            assert bool((parameter.grad == 0).all()) == (name == idle), name


def test_the_second_head_is_saved_and_left_behind():
    student = module()
    inputs = torch.randn(2, 4)
    assert "auxiliary_head.weight" in student.state_dict()
    assert set(student.network.state_dict()) == set(network().state_dict())
    student.auxiliary_head = None
    assert student.eval()(inputs).shape == (2, 3)
    copy.deepcopy(student.network)(inputs)


def test_the_hidden_layer_may_be_chosen():
    student = module(auxiliary="mlp")
    assert isinstance(student.auxiliary_head, nn.Sequential)
    assert torch.isfinite(student.training_step(batch(), 0)["loss"])
    with pytest.raises(ValueError, match="^dual_head: kind='deep'"):
        auxiliary_classifier(4, 3, "deep")
    with pytest.raises(ValueError, match="^dual_head: head='1' came; give one of the linear layers 0, 2"):
        module(head="1")


def test_a_module_without_a_second_head_is_refused():
    class Forgetful(DualHeadDistiller):
        def add_auxiliary_head(self, *arguments):
            pass

    objective = Objective({"aux": Term(BinaryKLNorm(), inputs={"logits": "auxiliary_logits"})})
    options = {"network": network(), "objective": objective, "num_classes": 3, "teacher": nn.Linear(4, 3)}
    with pytest.raises(ValueError, match="^Forgetful: the objective takes 'auxiliary_logits'; call"):
        Forgetful(**options).training_step(batch(), 0)
    with pytest.raises(ValueError, match="needs 'auxiliary_logits'"):
        Distiller(**options).training_step(batch(), 0)


class Shardable(Sharded, DualHeadDistiller):
    """A student that FSDP2 can shard."""


def aligned():
    student = module(aux=5.0, align_gradients=True, optimizer=lambda parameters: torch.optim.SGD(parameters, 0.1))
    student.__class__ = Shardable
    return student


def fixed(rows=slice(None)):
    generator = torch.Generator().manual_seed(4)
    return {"inputs": torch.randn(12, 4, generator=generator)[rows], "target": (torch.arange(12) % 3)[rows]}


@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "with a loss scaler"])
def test_a_step_goes_along_the_aligned_gradients(tmp_path, scaled):
    student, plain = aligned(), aligned()
    with torch.no_grad():
        for each in (student, plain):
            each.teacher.weight.mul_(5)
            each.auxiliary_head.weight.copy_(each.network[2].weight)
    # Labels that the teacher finds least likely, so that the two heads pull apart.
    step = {**fixed(), "target": plain.teacher(fixed()["inputs"]).argmin(dim=-1)}
    feature = plain.network[:2](step["inputs"])
    main = CrossEntropy()(plain.network[2](feature), step["target"])
    auxiliary = 5 * BinaryKLNorm(2.0)(plain.auxiliary_head(feature), plain.teacher(step["inputs"]))
    parameters = list(plain.parameters())
    one, other = (
        torch.autograd.grad(loss, parameters, retain_graph=True, materialize_grads=True) for loss in (main, auxiliary)
    )
    inner = sum((a * b).sum() for a, b in zip(one, other, strict=True))
    squared = sum(a.square().sum() for a in one)
    wanted = [a + b - min(inner, 0) / squared * a for a, b in zip(one, other, strict=True)]
    # A scale at which no gradient of float16 overflows, and the step would be left out.
    scaler = torch.amp.GradScaler("cpu", init_scale=16.0)
    train(student, [[step]], tmp_path, plugins=[MixedPrecision("16-mixed", "cpu", scaler)] if scaled else None)
    assert inner < 0  # or the alignment would be the plain sum
    for after, before, gradient in zip(student.parameters(), parameters, wanted, strict=True):
        torch.testing.assert_close(after, before - 0.1 * gradient, **({"rtol": 0.01, "atol": 3e-3} if scaled else {}))


class Kept(Shardable):
    """Writes what a step made of the weights."""

    def on_train_end(self):
        torch.save(
            self.state_dict(), f"{self.trainer.default_root_dir}/{self.trainer.world_size}_{self.global_rank}.pt"
        )


def kept():
    student = aligned()
    student.__class__ = Kept
    return student


def train(student, shards, folder, **further):
    """One step, each process on its shard."""
    options = {"strategy": DDPStrategy(start_method="fork", process_group_backend="gloo")} if len(shards) > 1 else {}
    trainer = L.Trainer(
        default_root_dir=folder, accelerator="cpu", devices=len(shards), max_steps=1, logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, limit_val_batches=0,
        use_distributed_sampler=False, **options, **further,
    )  # fmt: skip
    trainer.fit(student, Shards(shards))


class Shards(L.LightningDataModule):
    """Batches of each process."""

    def __init__(self, shards):
        super().__init__()
        self.shards = shards

    def train_dataloader(self):
        return torch.utils.data.DataLoader(self.shards[self.trainer.global_rank], batch_size=None)

    val_dataloader = train_dataloader


@pytest.mark.distributed
def test_aligned_steps_of_two_processes_are_that_of_one(tmp_path):
    # The gradients do not go through backward here, so the weights are what is compared.
    before = aligned().state_dict()
    train(kept(), [[fixed()]], tmp_path)
    train(kept(), [[fixed(slice(0, 5))], [fixed(slice(5, 12))]], tmp_path)
    one, *two = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("1_0", "2_0", "2_1"))
    for name, tensor in one.items():
        if "metrics" not in name:
            assert not torch.equal(tensor, before[name])
            for found in two:
                # Float32 sums in another order.
                torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.distributed
def test_alignment_refuses_shards(tmp_path):
    with pytest.raises(AssertionError, match="use DDP, not FSDP2"):
        one_step(aligned, [[fixed()], [fixed()]], tmp_path, "fsdp2")


def test_alignment_needs_two_sides():
    student = aligned()
    student.objective = Objective({"ce": CrossEntropy()})
    value = student.objective_value(student.objective, {"logits": torch.zeros(2, 3), "target": torch.tensor([0, 1])})
    with pytest.raises(ValueError, match="needs terms with and without 'auxiliary_logits'; the objective has ce"):
        student.aligned_gradients(value, list(student.parameters()))


def test_a_pass_beside_the_batch_that_fails_leaves_the_batchs_features():
    student, step = module(), batch()
    logits = student.network(step["inputs"])
    with pytest.raises(KeyError), student.beside_the_batch():
        student.network(torch.zeros(2, 4))
        raise KeyError
    assert student.objective_tensors({"logits": logits, **step})["auxiliary_logits"].shape == logits.shape
