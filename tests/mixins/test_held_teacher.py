"""What a student holds of its teacher: neither weights nor hyperparameters nor copies, and not what is its own."""

import copy
import pickle

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_losses import KD, CrossEntropy, DistillationMixin, ForwardKL, Objective
from lightning_losses.modules import Distiller
from lightning_losses.modules.ema_distiller import EMADistiller
from lightning_losses.teachers import TeacherEnsemble


class Adapted(nn.Module):
    """A frozen layer, and an adapter that can be left out."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.base, self.adapter = nn.Linear(4, 3).requires_grad_(False), nn.Linear(4, 3)
        self.dropout, self.on, self.modes = nn.Dropout(0.5), True, []

    def forward(self, inputs):
        self.modes.append((self.on, self.training))
        return self.base(self.dropout(inputs)) + (self.adapter(inputs) if self.on else 0)


class WithoutAdapter(nn.Module):
    """The same network as a teacher, and a scale of its own."""

    def __init__(self, network):
        super().__init__()
        self.network, self.scale = network, nn.Parameter(torch.ones(()))

    def forward(self, inputs):
        self.network.on = False
        try:
            return self.scale * self.network(inputs)
        finally:
            self.network.on = True


class Student(DistillationMixin, L.LightningModule):
    def __init__(self, network, teacher, width=3):
        super().__init__()
        self.save_hyperparameters()
        self.network = network
        self.teacher = teacher
        self.objective = Objective({"kl": ForwardKL()})

    def training_step(self, batch, batch_idx):
        return self.apply_objective(inputs=batch[0], logits=self.network(batch[0]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def trainable(module):
    return [name for name, parameter in module.named_parameters() if parameter.requires_grad]


class Ordered(DistillationMixin, L.LightningModule):
    """Sets its parts in an order."""

    def __init__(self, **parts):
        super().__init__()
        for name, value in parts.items():
            setattr(self, name, value)
        self.objective = Objective({"kl": ForwardKL()})


def made(order):
    network = Adapted()
    teacher = WithoutAdapter(network)
    if order == "ready module":
        return Distiller(teacher, network=network, objective=Objective({"kl": ForwardKL()}), num_classes=3)
    if order == "network first":
        return Ordered(network=network, teacher=teacher)
    return Ordered(teacher=teacher, network=network)


@pytest.mark.parametrize("order", ["network first", "teacher first", "ready module"])
def test_what_a_teacher_shares_with_its_student_trains(order):
    module = made(order)
    assert trainable(module) == ["network.adapter.weight", "network.adapter.bias"]
    assert module.network.training and module.network.dropout.training
    assert not module.teacher.training and not module.teacher.scale.requires_grad
    inputs = torch.randn(6, 4)
    output = module.apply_objective(inputs=inputs, logits=module.network(inputs))
    # The student's pass is in training mode, the teacher's in evaluation mode, and then all is as it was.
    assert module.network.modes == [(True, True), (False, False)] and module.network.training
    output["loss"].backward()
    assert module.network.adapter.weight.grad is not None and module.network.base.weight.grad is None
    # What is frozen later stays frozen.
    module.network.adapter.bias.requires_grad_(False)
    module.another = nn.Linear(2, 2)
    assert trainable(module) == ["network.adapter.weight", "another.weight", "another.bias"]


def test_hyperparameters_hold_no_teacher(tmp_path):
    with pytest.warns(UserWarning, match="'network' is an instance of `nn.Module`"):
        module = Student(nn.Linear(4, 3), nn.Linear(4, 3))
    assert set(module.hparams) == set(module.hparams_initial) == {"network", "width"}

    class Given(Student):
        """Its teacher has another name, and is a part of another."""

        def __init__(self, network, guides):
            super(Student, self).__init__()
            self.save_hyperparameters(ignore=["network"])
            self.network, self.teacher = network, TeacherEnsemble(guides)
            self.objective = Objective({"kl": ForwardKL()})

    given = Given(nn.Linear(4, 3), [nn.Linear(4, 3)])
    assert not given.hparams and not given.hparams_initial
    loader = DataLoader(TensorDataset(torch.randn(8, 4)), 4)
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(given, loader)
    trainer.save_checkpoint(tmp_path / "student.ckpt")
    saved = torch.load(tmp_path / "student.ckpt", weights_only=True)
    assert set(saved["state_dict"]) == {"network.weight", "network.bias"}


def test_a_deep_copy_shares_a_teacher_that_stands_still():
    module = Distiller(nn.Linear(4, 3), network=nn.Linear(4, 3), objective=Objective({"kd": KD()}), num_classes=3)
    twin = copy.deepcopy(module)
    assert twin.teacher is module.teacher and twin.network is not module.network
    # A process that is started gets all of it.
    assert torch.equal(pickle.loads(pickle.dumps(module)).teacher.weight, module.teacher.weight)


def test_a_deep_copy_has_a_moving_teacher_of_its_own():
    module = EMADistiller(nn.Linear(4, 3), objective=Objective({"kd": KD()}), num_classes=3, decay=0.5)
    twin = copy.deepcopy(module)
    before = module.teacher.weight.clone()
    with torch.no_grad():
        twin.network.weight.add_(1.0)
    twin.update_ema_teacher()
    assert torch.equal(module.teacher.weight, before) and not torch.equal(twin.teacher.weight, before)


def test_a_deep_copy_shares_with_its_teacher_what_the_original_shares_with_its_own():
    module = made("network first")
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert twin.teacher.network is twin.network is not module.network
        assert trainable(twin) == ["network.adapter.weight", "network.adapter.bias"] and twin.network.training
        inputs = torch.randn(6, 4)
        twin.apply_objective(inputs=inputs, logits=twin.network(inputs))
        assert twin.network.modes[-2:] == [(True, True), (False, False)]


def test_an_average_follows_its_network_only():
    module = EMADistiller(nn.Linear(4, 3), objective=Objective({"kd": KD()}), num_classes=3)
    with pytest.raises(
        ValueError, match="^ema_teacher: the teacher shares modules with the network .* give a deep copy"
    ):
        module.start_ema_teacher("network", teacher=module.network)


def test_an_average_moves_though_the_module_has_hooks_of_its_own(tmp_path):
    class Own(EMADistiller):
        def on_train_start(self):
            pass

        def on_train_batch_end(self, outputs, batch, batch_idx):
            pass

    torch.manual_seed(0)
    plain = EMADistiller(
        nn.Linear(4, 3), objective=Objective({"ce": CrossEntropy(), "kd": KD()}), num_classes=3, decay=0.5,
        optimizer=lambda parameters: torch.optim.SGD(parameters, 0.5),
    )  # fmt: skip
    own = Own(
        copy.deepcopy(plain.network), objective=plain.objective, num_classes=3, decay=0.5,
        optimizer=plain.make_optimizer,
    )  # fmt: skip
    batches = [{"inputs": torch.randn(4, 4), "target": torch.arange(4) % 3} for _ in range(5)]
    saved = []
    for module in (plain, own):
        trainer = L.Trainer(
            accelerator="cpu", max_epochs=1, logger=False, enable_progress_bar=False, enable_model_summary=False,
            enable_checkpointing=False, default_root_dir=tmp_path, limit_val_batches=0, accumulate_grad_batches=2,
        )  # fmt: skip
        trainer.fit(module, DataLoader(batches, batch_size=None), DataLoader(batches, batch_size=None))
        checkpoint = {}
        module.trainer = trainer
        trainer.training = True
        module.on_save_checkpoint(checkpoint)
        saved.append(checkpoint["ema_teacher"])
    assert saved[0]["updates"] == saved[1]["updates"] == 3
    assert all(torch.equal(value, saved[1]["state_dict"][name]) for name, value in saved[0]["state_dict"].items())
