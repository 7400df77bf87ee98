"""A frozen teacher beside a student."""

import copy

import lightning as L
import pytest
import torch
from torch import nn

from lightning_losses import KD, CrossEntropy, DistillationMixin, Objective
from lightning_losses.modules import Distiller
from lightning_losses.teachers import CachedLogits


class Student(DistillationMixin, L.LightningModule):
    """As a user would write it."""

    def __init__(self, teacher=None):
        super().__init__()
        self.network = nn.Linear(4, 3)
        self.teacher = teacher
        self.objective = Objective({"ce": CrossEntropy(), "kd": KD()})

    def training_step(self, batch, batch_idx):
        inputs, target = batch
        return self.apply_objective(inputs=inputs, logits=self.network(inputs), target=target)


def teacher():
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))


def batch():
    return torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])


def test_teacher_is_no_part_of_the_module():
    student = Student(teacher())
    assert set(student.state_dict()) == {"network.weight", "network.bias"}
    assert len(list(student.parameters())) == 2
    assert all("teacher" not in name for name, _ in student.named_modules())


def test_teacher_stays_in_eval_mode_and_frozen():
    student = Student(teacher())
    student.train()
    student.requires_grad_(True)
    assert not any(module.training for module in student.teacher.modules())
    assert not any(parameter.requires_grad for parameter in student.teacher.parameters())
    before = copy.deepcopy(student.teacher.state_dict())
    output = student.training_step(batch(), 0)
    output["loss"].backward()
    assert all(torch.equal(before[name], tensor) for name, tensor in student.teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in student.teacher.parameters())


def test_teacher_follows_precision_and_device():
    student = Student(teacher()).double()
    assert {p.dtype for p in student.teacher.parameters()} == {torch.float64}
    student.to("meta")
    assert {p.device.type for p in student.teacher.parameters()} == {"meta"}


def test_loss_is_the_losses_own():
    student = Student(teacher())
    inputs, target = batch()
    output = student.training_step((inputs, target), 0)
    with torch.no_grad():
        teacher_logits = student.teacher(inputs)
    expected = CrossEntropy()(output["logits"], target) + KD()(output["logits"], teacher_logits)
    torch.testing.assert_close(output["loss"], expected)


def test_what_the_teacher_lacks_is_one_sentence():
    with pytest.raises(ValueError, match="Student: the objective takes 'teacher_logits', but no teacher is set"):
        Student().training_step(batch(), 0)
    with pytest.raises(ValueError, match="teacher: a str came"):
        Student("resnet18")
    student = Student(CachedLogits(torch.zeros(6, 3)))
    with pytest.raises(
        ValueError, match="the teacher works on 'index', but the step offered 'inputs', 'logits', 'target'"
    ):
        student.training_step(batch(), 0)


def test_teacher_with_other_classes_is_refused():
    with pytest.raises(ValueError, match=r"kd: teacher_logits of shape \[6, 5\] came with logits of shape \[6, 3\]"):
        Student(nn.Linear(4, 5)).training_step(batch(), 0)


def test_teacher_does_not_run_when_no_term_asks():
    class Counting(nn.Linear):
        calls = 0

        def forward(self, inputs):
            Counting.calls += 1
            return super().forward(inputs)

    student = Student(Counting(4, 3))
    student.objective = Objective({"ce": CrossEntropy()})
    student.training_step(batch(), 0)
    assert Counting.calls == 0


class Samples(torch.utils.data.Dataset):
    """Twelve samples with their index, as mappings."""

    def __init__(self):
        generator = torch.Generator().manual_seed(1)
        self.inputs = torch.randn(12, 4, generator=generator)
        self.target = torch.arange(12) % 3

    def __len__(self):
        return 12

    def __getitem__(self, index):
        return {"inputs": self.inputs[index], "target": self.target[index], "index": torch.tensor(index)}


def loader():
    return torch.utils.data.DataLoader(Samples(), batch_size=4)


def quiet_trainer(folder, **options):
    return L.Trainer(
        default_root_dir=folder, accelerator="cpu", devices=1, logger=False, enable_progress_bar=False,
        enable_model_summary=False, **{"max_epochs": 2, "enable_checkpointing": False, **options},
    )  # fmt: skip


def student_module(taught_by):
    torch.manual_seed(3)
    return Distiller(
        taught_by, network=nn.Linear(4, 3), objective=Objective({"ce": CrossEntropy(), "kd": KD()}), num_classes=3
    )


def test_checkpoint_saved_with_a_teacher_loads_without_one(tmp_path):
    module = student_module(teacher())
    trainer = quiet_trainer(tmp_path, enable_checkpointing=True)
    trainer.fit(module, loader(), loader())
    assert not any("teacher" in name for name in trainer.optimizers[0].state_dict()["param_groups"][0])
    assert len(trainer.optimizers[0].param_groups[0]["params"]) == 2
    path = tmp_path / "student.ckpt"
    trainer.save_checkpoint(path)
    saved = torch.load(path, weights_only=True)
    assert not any("teacher" in name for name in saved["state_dict"])
    alone = student_module(None)
    alone.load_state_dict(saved["state_dict"])
    assert torch.equal(alone.network.weight, module.network.weight)


def test_a_cache_of_views_goes_by_the_view():
    student, cached = Student(CachedLogits(torch.randn(9, 3))), {"logits": torch.zeros(2, 3)}
    places = {"index": torch.tensor([0, 1]), "view_index": torch.tensor([7, 5])}
    offered = student.objective_tensors({**cached, **places})
    assert torch.equal(offered["teacher_logits"], student.teacher.logits[[7, 5]])


def test_cached_teacher_trains_the_same_student(tmp_path):
    live_teacher = nn.Linear(4, 3)
    live, cached = student_module(live_teacher), student_module(CachedLogits(live_teacher(Samples().inputs)))
    quiet_trainer(tmp_path).fit(live, loader(), loader())
    quiet_trainer(tmp_path).fit(cached, loader(), loader())
    # The two products add in different orders: rounding alone.
    torch.testing.assert_close(live.network.weight, cached.network.weight, rtol=1e-5, atol=1e-6)


def test_teacher_runs_under_the_trainer_s_precision(tmp_path):
    seen = []

    class Watching(nn.Linear):
        def forward(self, inputs):
            output = super().forward(inputs)
            seen.append(output.dtype)
            return output

    quiet_trainer(tmp_path, precision="bf16-mixed", max_steps=1).fit(student_module(Watching(4, 3)), loader(), loader())
    assert seen == [torch.bfloat16]
