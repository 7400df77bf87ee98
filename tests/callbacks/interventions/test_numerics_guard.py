"""A loss that is not finite: found where it begins, saved, replayed; steps left out as if they had never been."""

import copy
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from lightning_losses import KD, CrossEntropy, DistillationMixin, Objective
from lightning_losses.callbacks.interventions.numerics_guard import NumericsGuard
from lightning_losses.diagnostics.numerics import find_cause, replay
from tests.distributed.processes import run_on_processes


class Student(DistillationMixin, L.LightningModule):
    def __init__(self, teacher=None):
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), Trouble(), nn.Dropout(0.2), nn.Linear(6, 3))
        self.teacher = teacher
        self.objective = Objective({"ce": CrossEntropy()} | ({} if teacher is None else {"kd": KD()}))

    def forward(self, inputs):
        return self.network(inputs)

    def training_step(self, batch, batch_idx):
        self.network[2].kind = batch.get("kind", "none")
        return self.apply_objective(logits=self(batch["inputs"]), inputs=batch["inputs"], target=batch["target"])

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.01)


class Trouble(nn.Module):
    """Passes its input on, or makes the value or the slope of it infinite."""

    kind = "none"

    def forward(self, hidden):
        if self.kind == "value":
            return hidden / torch.zeros_like(hidden)
        return hidden + (hidden * 0).abs().sqrt() if self.kind == "slope" else hidden


class Broken(nn.Module):
    def forward(self, inputs):
        return torch.full((len(inputs), 3), torch.nan)


def batches(count=6, **kinds):
    generator = torch.Generator().manual_seed(0)
    made = []
    for number in range(count):
        batch = {
            "inputs": torch.randn(8, 4, generator=generator),
            "target": torch.randint(3, (8,), generator=generator),
        }
        kind = kinds.get(f"at_{number}", "none")
        if kind == "inputs":
            batch["inputs"][2, 1] = torch.inf
        made.append({**batch, "kind": kind})
    return made


def fit(module, data, guard, folder, **options):
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False, max_epochs=1,
        enable_model_summary=False, callbacks=[guard], default_root_dir=folder, **options,
    )  # fmt: skip
    trainer.fit(module, DataLoader(data, batch_size=None))
    return trainer


@pytest.mark.parametrize(
    ("kind", "gradients", "message", "cause"),
    [
        ("value", False, "step 2, batch 2: term 'ce' is not finite, its input 'logits' is not finite, the "
         "first layer that is not finite is 'network.2'", ("ce", "logits", "network.2")),
        ("inputs", False, r"batch\['inputs'\] holds 1 of 32 values", (None, "batch['inputs']", None)),
        ("slope", True, "the loss is finite, its gradient is not", (None, "network.1.bias", "network.1")),
    ],
)  # fmt: skip
def test_the_first_that_is_not_finite_is_named_and_replayed(tmp_path, kind, gradients, message, cause):
    guard = NumericsGuard(gradients=gradients)
    with pytest.raises(ValueError, match=f"^numerics_guard: .*{message}"):
        fit(Student(), batches(at_2=kind), guard, tmp_path)
    assert guard.cause[1:] == cause
    (path,) = (tmp_path / "numerics").iterdir()
    assert str(path) in guard.cause.message
    again = replay(path, Student(), gradients=gradients)
    assert again[1:] == cause


def test_a_teacher_and_a_broken_weight_are_named():
    batch = batches(1)[0]
    cause = find_cause(Student(Broken()), batch)
    assert (cause.term, cause.tensor, cause.layer) == ("kd", "teacher_logits", "teacher")
    module = Student()
    with torch.no_grad():
        module.network[0].weight[1, 1] = torch.nan
    assert find_cause(module, batch).tensor == "network.0.weight"
    assert find_cause(Student(), batch, gradients=True) is None


def test_a_masked_class_is_no_cause():
    class Masked(Student):
        def forward(self, inputs):
            return self.network(inputs).index_fill(1, torch.tensor([2]), -torch.inf)

    module, batch = Masked(), batches(1)[0]
    assert find_cause(module, {**batch, "target": torch.zeros(8, dtype=torch.long)}) is None


def test_the_step_is_left_as_it_was_by_the_search():
    module, batch = Student(nn.Linear(4, 3)), batches(1)[0]
    module.training_step(batch, 0)["loss"].backward()
    before = {name: p.grad.clone() for name, p in module.named_parameters()}
    find_cause(module, {**batch, "kind": "value"}, gradients=True)
    assert all(torch.equal(before[name], p.grad) for name, p in module.named_parameters())
    assert not any(part._forward_hooks for part in module.modules()) and "log" not in module.__dict__


@pytest.mark.parametrize(
    ("accumulate", "precision", "place"),
    [(1, "32-true", 2), (2, "32-true", 5), (1, "bf16-mixed", 5), (2, "bf16-mixed", 2)],
)
def test_a_skipped_step_is_as_if_it_had_not_been(tmp_path, accumulate, precision, place):
    options = {"accumulate_grad_batches": accumulate, "precision": precision}
    data = batches(6, **{f"at_{place}": "value"})
    begins = place // accumulate * accumulate
    left = data[:begins] + data[begins + accumulate :]
    guard, skipping, without = NumericsGuard(skip=True, gradients=True), Student(), Student()
    for module in (skipping, without):
        module.network[3].p = 0.0  # both draw other numbers from the skipped step on
    metrics = fit(skipping, data, guard, tmp_path, **options).callback_metrics
    wanted = fit(without, left, NumericsGuard(), tmp_path, **options).callback_metrics
    assert guard.skipped == 1
    assert float(metrics["train/objective"]) == pytest.approx(float(wanted["train/objective"]), rel=1e-6)
    for (name, one), other in zip(skipping.state_dict().items(), without.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


def test_a_run_without_trouble_is_the_same_with_and_without_it(tmp_path):
    watched, alone = Student(), Student()
    torch.manual_seed(3)
    fit(watched, batches(), NumericsGuard(skip=True, gradients=True), tmp_path)
    torch.manual_seed(3)
    fit(alone, batches(), L.Callback(), tmp_path)
    assert all(
        torch.equal(a, b) for a, b in zip(watched.state_dict().values(), alone.state_dict().values(), strict=True)
    )


def test_too_many_in_a_row_stop_the_run_and_counts_survive(tmp_path):
    guard = NumericsGuard(skip=True, max_consecutive=2, save=2)
    data = batches(6, at_0="value", at_2="value", at_3="value", at_4="value")
    with pytest.raises(ValueError, match="the 3th such step in a row"):
        fit(Student(), data, guard, tmp_path)
    assert guard.skipped == 4 and len(list((tmp_path / "numerics").iterdir())) == 2
    again = NumericsGuard()
    again.load_state_dict(copy.deepcopy(guard.state_dict()))
    assert again.state_dict() == guard.state_dict()


def test_another_training_counts_anew_and_knows_nothing_of_a_step_that_failed(tmp_path):
    class Fails(Student):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) if batch_idx == 0 else 1 / 0

    guard = NumericsGuard(skip=True)
    fit(Student(), batches(1, at_0="value"), guard, tmp_path)
    assert guard.skipped == 1
    with pytest.raises(ZeroDivisionError):
        fit(Fails(), batches(2, at_0="value"), guard, tmp_path, accumulate_grad_batches=2)
    fit(Student(), batches(2), guard, tmp_path, accumulate_grad_batches=2)
    assert guard.skipped == 0


def test_files_that_are_no_batches_are_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"hello")
    with pytest.raises(ValueError, match="can't be replayed"):
        replay(tmp_path / "file", Student())


def _two(folder: Path) -> None:
    from lightning.pytorch.strategies import DDPStrategy

    rank = int(torch.distributed.get_rank()) if torch.distributed.is_initialized() else None
    module, guard = Student(), NumericsGuard(skip=True)
    module.network[3].p = 0.0

    class Data(L.LightningDataModule):
        def train_dataloader(self):
            kinds = {"at_1": "value"} if self.trainer.global_rank == 1 else {}
            return DataLoader(batches(3, **kinds), batch_size=None)

    trainer = L.Trainer(
        accelerator="cpu", devices=2, strategy=DDPStrategy(process_group_backend="gloo"), logger=False, max_epochs=1,
        enable_progress_bar=False, enable_checkpointing=False, enable_model_summary=False, callbacks=[guard],
        default_root_dir=folder, use_distributed_sampler=False,
    )  # fmt: skip
    assert rank is None
    trainer.fit(module, Data())
    where = "on another process" if trainer.global_rank == 0 else "'network.2'"
    assert guard.skipped == 1 and where in guard.cause.message, guard.cause
    torch.save(module.state_dict(), folder / f"{trainer.global_rank}.pt")


@pytest.mark.distributed
def test_all_processes_leave_out_the_step_together(tmp_path):
    run_on_processes(_two, 2, tmp_path)
    one, other = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for name, tensor in one.items():
        assert bool(torch.isfinite(tensor).all())
        if "running" not in name:  # each process has its own statistics
            assert torch.equal(tensor, other[name])


def test_gradients_whose_squares_overflow_are_finite():
    guard, module = NumericsGuard(gradients=True), nn.Linear(2, 1)
    module.weight.grad, module.bias.grad = torch.full((1, 2), 1e25), torch.zeros(1)
    guard.on_before_optimizer_step(SimpleNamespace(precision_plugin=None), module, None)
    assert guard.skipped == 0


def test_an_epoch_that_only_averages_statistics_has_no_gradients(tmp_path):
    averaging = L.pytorch.callbacks.StochasticWeightAveraging(0.01, swa_epoch_start=1)
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False, max_epochs=2,
        enable_model_summary=False, callbacks=[NumericsGuard(gradients=True), averaging], default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(Student(), DataLoader(batches(2), batch_size=None))
    # One more than asked for, in which the statistics are averaged.
    assert trainer.current_epoch == 3


def test_a_full_disk_does_not_hide_what_broke_the_step(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lightning_losses.callbacks.interventions.numerics_guard.save_batch", full)
    with pytest.raises(ValueError) as raised:
        fit(Student(), batches(2, at_1="inputs"), NumericsGuard(), tmp_path)
    assert str(raised.value) == (
        "numerics_guard: step 1, batch 1: batch['inputs'] holds 1 of 32 values that are not finite. The batch and the "
        "weights could not be saved ([Errno 28] No space left on device)."
    )
