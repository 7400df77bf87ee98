"""A teacher that is the moving average of its student."""

import copy

import lightning as L
import pytest
import torch
from torch import nn

from lightning_losses import KD, CrossEntropy, Objective
from lightning_losses.modules.ema_distiller import EMADistiller
from tests.distributed.processes import Sharded, one_step


class Student(Sharded, EMADistiller):
    """A student that FSDP2 can shard."""


def student(norm=True, **options):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6) if norm else nn.Tanh(), nn.Linear(6, 3))
    return Student(
        network,
        objective=Objective({"ce": CrossEntropy(), "kd": KD(2.0)}),
        num_classes=3,
        optimizer=lambda parameters: torch.optim.SGD(parameters, 0.5, momentum=0.9),
        **options,
    )


def batch(rows=slice(None)):
    generator = torch.Generator().manual_seed(1)
    return {"inputs": torch.randn(12, 4, generator=generator)[rows], "target": (torch.arange(12) % 3)[rows]}


def fit(module, folder, epochs=2, path=None, **options):
    trainer = L.Trainer(
        default_root_dir=folder, accelerator="cpu", max_epochs=epochs, logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, limit_val_batches=0, **options,
    )  # fmt: skip
    loader = torch.utils.data.DataLoader([batch(slice(0, 4)), batch(slice(4, 8)), batch(slice(8, 12))], batch_size=None)
    trainer.fit(module, loader, loader, ckpt_path=path, weights_only=True)
    return trainer


class Snapshots(L.Callback):
    """The network's state after each optimizer step."""

    def __init__(self):
        self.states = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if trainer.global_step != len(self.states):
            self.states.append(copy.deepcopy(module.network.state_dict()))


@pytest.mark.parametrize("buffers", ["copy", "average"])
@pytest.mark.parametrize("warmup", [True, False])
def test_it_is_the_moving_average_of_the_networks_states(tmp_path, buffers, warmup):
    module, snapshots = student(decay=0.8, warmup=warmup, buffers=buffers), Snapshots()
    expected = copy.deepcopy(module.network.state_dict())
    fit(module, tmp_path, callbacks=[snapshots])
    assert len(snapshots.states) == 6
    for number, state in enumerate(snapshots.states, start=1):
        decay = min(0.8, number / (number + 1)) if warmup else 0.8
        for name, value in state.items():
            whole = not value.is_floating_point() or ("running" in name and buffers == "copy")
            expected[name] = value if whole else decay * expected[name] + (1 - decay) * value
    for name, value in module.teacher.state_dict().items():
        torch.testing.assert_close(value, expected[name])
        assert not torch.equal(value, module.network.state_dict()[name]) or "running" in name or "num" in name


def test_accumulated_batches_are_one_update(tmp_path):
    module = student(decay=0.5, warmup=False)
    fit(module, tmp_path, epochs=1, accumulate_grad_batches=2)
    # Three batches: a window of two, and what remains.
    assert module._ema["updates"] == 2


def test_a_further_training_begins_without_an_update(tmp_path):
    """The steps that another trainer did before are no step of this one."""
    module = student(decay=0.5)
    fit(module, tmp_path, epochs=1)
    fit(module, tmp_path, epochs=1, accumulate_grad_batches=3)
    assert module._ema["updates"] == 3 + 1


def test_it_is_frozen_and_no_part_of_the_module(tmp_path):
    module = student()
    assert len(list(module.parameters())) == 6
    assert not any("teacher" in name for name in module.state_dict())
    trainer = fit(module, tmp_path)
    assert len(trainer.optimizers[0].param_groups[0]["params"]) == 6
    assert not any(layer.training or layer._forward_hooks for layer in module.teacher.modules())
    assert not any(parameter.requires_grad for parameter in module.teacher.parameters())
    assert {parameter.dtype for parameter in module.double().teacher.parameters()} == {torch.float64}
    assert {parameter.device.type for parameter in module.to("meta").teacher.parameters()} == {"meta"}


def test_the_student_learns_from_it(tmp_path):
    module = student(norm=False, decay=0.9)
    step = batch()
    with torch.no_grad():
        module.teacher[0].weight.mul_(3)
    logits = module.network(step["inputs"])
    expected = CrossEntropy()(logits, step["target"]) + KD(2.0)(logits, module.teacher(step["inputs"]))
    torch.testing.assert_close(module.training_step(step, 0)["loss"], expected)


@pytest.mark.parametrize(("accumulate", "updates"), [(1, 12), (2, 8)])
def test_a_resumed_training_is_the_uninterrupted_one(tmp_path, accumulate, updates):
    options = {"accumulate_grad_batches": accumulate}
    whole, begun, resumed = student(), student(), student()
    fit(whole, tmp_path, epochs=4, **options)
    fit(begun, tmp_path, epochs=2, **options).save_checkpoint(tmp_path / "cut.ckpt")
    fit(resumed, tmp_path, epochs=4, path=tmp_path / "cut.ckpt", **options)
    for network in ("network", "teacher"):
        for name, tensor in getattr(whole, network).state_dict().items():
            assert torch.equal(getattr(resumed, network).state_dict()[name], tensor), name
    assert resumed._ema["updates"] == whole._ema["updates"] == updates


def after_a_step(shards, folder, strategy):
    """Every process's teacher after one step."""

    class Writing(Student):
        def on_train_end(self):
            torch.save(self.teacher.state_dict(), folder / f"{strategy}_{len(shards)}_{self.global_rank}.pt")

    def make():
        module = student(norm=strategy != "fsdp2", decay=0.7)
        module.__class__ = Writing
        return module

    one_step(make, shards, folder, strategy)
    return [
        torch.load(folder / f"{strategy}_{len(shards)}_{rank}.pt", weights_only=True) for rank in range(len(shards))
    ]


@pytest.mark.distributed
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_every_process_keeps_the_same_whole_average(strategy, tmp_path):
    first, second = after_a_step([[batch(slice(0, 6))], [batch(slice(6, 12))]], tmp_path, strategy)
    for name, tensor in first.items():
        assert torch.equal(second[name], tensor), name
    if strategy == "fsdp2":  # without batch norm, whose statistics are a process's own
        module = student(norm=False, decay=0.7)
        before = copy.deepcopy(module.teacher.state_dict())
        trainer = L.Trainer(
            default_root_dir=tmp_path, accelerator="cpu", max_steps=1, logger=False, enable_progress_bar=False,
            enable_model_summary=False, enable_checkpointing=False, limit_val_batches=0,
        )  # fmt: skip
        loader = torch.utils.data.DataLoader([batch()], batch_size=None)
        trainer.fit(module, loader, loader)
        for name, tensor in module.teacher.state_dict().items():
            # Float32 sums in another order.
            torch.testing.assert_close(first[name], tensor, rtol=1e-5, atol=1e-6)
            assert not torch.equal(tensor, before[name])


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="^ema_teacher: decay=1.5"):
        student(decay=1.5)
    with pytest.raises(ValueError, match="^ema_teacher: buffers='forget'"):
        student(buffers="forget")


def test_an_average_of_half_precision_arrives_and_is_saved_with_what_it_rounds_away():
    """In bfloat16 a thousandth of a step rounds to none."""
    module = student(norm=False, decay=0.999, warmup=False).bfloat16()
    with torch.no_grad():
        for parameter in module.network.parameters():
            parameter.fill_(1.0)
        for parameter in module.teacher.parameters():
            parameter.fill_(2.0)
    for _ in range(700):
        module.update_ema_teacher()
    checkpoint = {}
    module.on_save_checkpoint(checkpoint)
    again = student(norm=False, decay=0.999, warmup=False).bfloat16()
    again.network.load_state_dict(module.network.state_dict())
    again.on_load_checkpoint(checkpoint)
    for one in (module, again):
        one.update_ema_teacher()
        for name, parameter in one.teacher.named_parameters():
            assert parameter.dtype == torch.bfloat16
            torch.testing.assert_close(
                parameter.float(), torch.full_like(parameter.float(), 1 + 0.999**701), rtol=4e-3, atol=0
            )
            torch.testing.assert_close(
                one._ema["averages"][name], torch.full(parameter.shape, 1 + 0.999**701), rtol=1e-5, atol=0
            )
    # One of before, which holds them rounded.
    checkpoint["ema_teacher"]["state_dict"] = module.teacher.state_dict()
    again.on_load_checkpoint(checkpoint)
    again.update_ema_teacher()
    assert all(average.dtype == torch.float32 for average in again._ema["averages"].values())


def test_an_average_goes_on_from_full_precision_to_half_again():
    module = student(norm=False, decay=0.999, warmup=False)
    with torch.no_grad():
        for parameter in module.network.parameters():
            parameter.fill_(1.0)
        for parameter in module.teacher.parameters():
            parameter.fill_(2.0)
    for dtype, updates in ((torch.bfloat16, 50), (torch.float32, 50), (torch.bfloat16, 1)):
        module.to(dtype)
        module.teacher.to(dtype)
        for _ in range(updates):
            module.update_ema_teacher()
    for parameter in module.teacher.parameters():
        torch.testing.assert_close(
            parameter.float(), torch.full_like(parameter.float(), 1 + 0.999**101), rtol=4e-3, atol=0
        )
