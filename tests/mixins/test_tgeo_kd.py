"""A controller that learns through the student's steps."""

import copy

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_losses import Objective
from lightning_losses.losses import TGeoKD
from lightning_losses.losses.distillation.logits.tgeo_kd import tgeo_state
from lightning_losses.modules.tgeo_distiller import TGeoDistiller
from tests.distributed.processes import Sharded, one_step


class Student(Sharded, TGeoDistiller):
    """A student that FSDP2 could shard."""


def student(**options):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    return Student(
        nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)),
        network=network,
        objective=Objective({"tgeo_kd": TGeoKD()}),
        num_classes=3,
        optimizer=lambda parameters: torch.optim.SGD(parameters, 0.2, momentum=0.9),
        **{"controller_learning_rate": 0.01, **options},
    )


def batch(seed=1, rows=12):
    generator = torch.Generator().manual_seed(seed)
    return {"inputs": 2 * torch.randn(rows, 4, generator=generator), "target": torch.arange(rows) % 3}


class Rows(torch.utils.data.Dataset):
    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows["target"])

    def __getitem__(self, position):
        return {name: tensor[position] for name, tensor in self.rows.items()}


def loaders():
    train, held_out = Rows(batch()), Rows(batch(2, rows=9))
    return torch.utils.data.DataLoader(train, batch_size=4), torch.utils.data.DataLoader(held_out, batch_size=3)


def fit(module, folder, epochs=2, path=None, given=None, **options):
    trainer = L.Trainer(
        default_root_dir=folder, accelerator="cpu", max_epochs=epochs, logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, num_sanity_val_steps=0, **options,
    )  # fmt: skip
    trainer.fit(module, *(given or loaders()), ckpt_path=path, weights_only=True)
    return trainer


def stepped_loss(module, controller, taught, held_out, rate):
    """The held-out loss after the step, with nothing but a copy of the student and plain gradient descent."""
    network = copy.deepcopy(module.network)
    logits = network(taught["inputs"])
    state = tgeo_state(
        logits.softmax(-1).detach(), taught["teacher_logits"].softmax(-1), taught["target"], module.class_means
    )
    alpha = controller(state).detach()
    t = (taught["teacher_logits"] / 1.5).softmax(-1)
    kl = (t * (t.log() - (logits / 1.5).log_softmax(-1))).sum(-1)
    ce = F.cross_entropy(logits, taught["target"], reduction="none")
    (alpha * 1.5**2 * kl + (1 - alpha) * ce).mean().backward()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter -= rate * parameter.grad
        return F.cross_entropy(network(held_out["inputs"]), held_out["target"]).item()


def test_the_controllers_gradient_is_that_of_finite_differences():
    module = student().double()
    held_out = {"inputs": batch(3)["inputs"].double(), "target": batch(3)["target"]}
    taught = {"inputs": batch()["inputs"].double(), "target": batch()["target"]}
    taught.update(module.teacher_tensors(taught))
    module.class_means.copy_(torch.eye(3) / 2 + 1 / 6)
    gradients = module.controller_gradients(taught, held_out, learning_rate=0.5)
    assert not any(parameter.requires_grad for parameter in module.controller.parameters())
    assert gradients.keys() == dict(module.controller.named_parameters()).keys()
    for name, gradient in gradients.items():
        place, values = int(gradient.abs().argmax()), []
        for sign in (1, -1):
            moved = copy.deepcopy(module.controller)
            dict(moved.named_parameters())[name].data.view(-1)[place] += sign * 1e-5
            values.append(stepped_loss(module, moved, taught, held_out, 0.5))
        # Central differences: their error falls with the square of the step.
        expected = (values[0] - values[1]) / 2e-5
        assert abs(expected) > 1e-7
        assert gradient.view(-1)[place].item() == pytest.approx(expected, rel=1e-4)


def test_both_learn_and_the_clock_is_the_students(tmp_path):
    module = student()
    before = copy.deepcopy(module.state_dict())
    trainer = fit(module, tmp_path)
    for name, tensor in module.state_dict().items():
        assert not torch.equal(tensor, before[name]) or "metrics" in name, name
    assert trainer.global_step == 6
    assert {"train/loss/tgeo_kd", "train/held_out_loss"} <= set(trainer.logged_metrics)
    ids = [{id(p) for group in optimizer.param_groups for p in group["params"]} for optimizer in trainer.optimizers]
    assert ids == [{id(p) for p in part.parameters()} for part in (module.network, module.controller)]


def test_the_class_means_are_the_teachers(tmp_path):
    module = student()
    fit(module, tmp_path, epochs=1)
    rows = batch()
    predictions = module.teacher(rows["inputs"]).softmax(-1)
    expected = torch.stack([predictions[rows["target"] == number].mean(0) for number in range(3)])
    torch.testing.assert_close(module.class_means, expected)


def test_the_students_step_takes_the_ratios_as_constants():
    module, step = student(), batch()
    output = module.training_step(step, 0)
    logits, teacher_logits = module.network(step["inputs"]), module.teacher(step["inputs"])
    state = tgeo_state(logits.softmax(-1), teacher_logits.softmax(-1), step["target"], module.class_means)
    expected = TGeoKD()(logits, teacher_logits, step["target"], module.controller(state).detach())
    torch.testing.assert_close(output["loss"], expected)
    found, wanted = (
        torch.autograd.grad(loss, list(module.network.parameters())) for loss in (output["loss"], expected)
    )
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_ratios_come_in_every_precision(dtype):
    module, step = student().to(dtype), batch()
    output = module.training_step({**step, "inputs": step["inputs"].to(dtype)}, 0)
    wide = student().double().training_step({**step, "inputs": step["inputs"].double()}, 0)
    digits = {"rtol": 0.02, "atol": 0} if dtype != torch.float64 else {"rtol": 1e-14, "atol": 0}
    torch.testing.assert_close(output["loss"].double(), wide["loss"], **digits)


def test_another_fit_has_its_own_held_out_batches_and_class_means(tmp_path):
    module = student()
    fit(module, tmp_path, epochs=1)
    assert type(copy.deepcopy(module)) is Student
    module.class_means.fill_(0.5)
    seen = []
    next_held_out = module._next_held_out
    module._next_held_out = lambda: seen.append(next_held_out()) or seen[-1]
    held_out = {"inputs": torch.full((3, 4), 7.0), "target": torch.arange(3)}
    fit(module, tmp_path, epochs=1, given=(loaders()[0], torch.utils.data.DataLoader(Rows(held_out), batch_size=3)))
    assert len(seen) == 3 and all(bool((given["inputs"] == 7).all()) for given in seen)
    torch.testing.assert_close(module.class_means.sum(dim=1), torch.ones(3))


@pytest.mark.parametrize("every", [1, 2])
def test_a_resumed_training_is_the_uninterrupted_one(tmp_path, every):
    whole, begun, resumed = (student(controller_every=every) for _ in range(3))
    fit(whole, tmp_path, epochs=3)
    fit(begun, tmp_path, epochs=1).save_checkpoint(tmp_path / "cut.ckpt")
    fit(resumed, tmp_path, epochs=3, path=tmp_path / "cut.ckpt")
    for name, tensor in whole.state_dict().items():
        if "metrics" not in name:
            assert torch.equal(resumed.state_dict()[name], tensor), name


class Looking(Student):
    """Writes what each process's controller and student have become, and makes its own validation split."""

    def configure_model(self):
        super().configure_model()
        self.folder = self.trainer.default_root_dir

    def on_train_start(self):
        self.class_means.copy_(torch.eye(3))
        self.__dict__["_held_out"].batches = iter([batch(2, rows=9)])

    def on_train_end(self):
        torch.save(self.state_dict(), f"{self.folder}/rank_{self.global_rank}.pt")


def looking():
    module = student()
    module.__class__ = Looking
    return module


@pytest.mark.distributed
def test_two_processes_keep_one_controller(tmp_path):
    whole = batch()
    shards = [[{name: tensor[rows] for name, tensor in whole.items()}] for rows in (slice(0, 6), slice(6, 12))]
    before = student().state_dict()
    one_step(looking, shards, tmp_path)
    first, second = (torch.load(tmp_path / f"rank_{rank}.pt", weights_only=True) for rank in range(2))
    for name, tensor in first.items():
        if "metrics" not in name:
            assert torch.equal(second[name], tensor), name
            assert not torch.equal(tensor, before[name])


@pytest.mark.distributed
def test_a_sharded_student_is_refused(tmp_path):
    with pytest.raises(AssertionError, match="use DDP in place of FSDP2"):
        one_step(looking, [[batch()], [batch()]], tmp_path, "fsdp2")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"accumulate_grad_batches": 2},
            "Student: accumulate_grad_batches=2 came, and TGeo-KD takes a step of student and controller on each "
            "batch; leave it at 1, and give larger batches.",
        ),
        (
            {"limit_val_batches": 0},
            "Student: there is no validation split to learn from; give the trainer one DataLoader of it, and "
            "limit_val_batches above 0.",
        ),
    ],
    ids=["accumulation", "no validation"],
)
def test_what_the_controller_can_not_learn_with_is_refused_at_the_start(tmp_path, options, sentence):
    with pytest.raises(ValueError) as raised:
        fit(student(), tmp_path, **options)
    assert str(raised.value) == sentence
