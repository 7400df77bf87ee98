import inspect
import json
import math
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import lightning
import pytest
import torch
from omegaconf import OmegaConf

from lightning_losses.data import Digits
from lightning_losses.experiments.launch import experiment_of
from lightning_losses.experiments.training.rehearsal import rehearse_step
from lightning_losses.experiments.training.report import SCORE_NAMES
from lightning_losses.experiments.training.training import Training
from lightning_losses.recipes.train import main
from tests.recipes.conftest import ROOT, SHORT, composed, rehearse


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["experiment=distill"], {"teacher (ce)", "baseline (ce)", "student (ce + nkd)"}),
        (["experiment=distill", "objective=sinkd"], {"teacher (ce)", "baseline (ce)", "student (ce + kd + sinkd)"}),
        (["experiment=online_distill"], {"baseline (ce)", "student (ce + bdkd)"}),
        (["experiment=online_distill", "objective=mutual_learning"], {"baseline (ce)", "student (ce + kd)"}),
        (["experiment=mutual_learning"], {"baseline (ce)", "student (ce + kd)"}),
        (["experiment=distill_ensemble"], {"teacher (ce)", "baseline (ce)", "student (ce + kd)"}),
        (
            ["experiment=distill_ensemble", "objective=mtard_ensemble"],
            {"teacher (ce)", "baseline (ce)", "student (ce + mtard_balance)"},
        ),
        (["experiment=tgeo"], {"teacher (ce)", "baseline (ce)", "student (tgeo_kd)"}),
        (["experiment=distill_stages"], {"teacher (ce)", "baseline (ce)", "student (ce + ofa_kd + ofa_stages)"}),
        (
            ["experiment=dual_head", "modules.student.align_gradients=true"],
            {"teacher (ce)", "baseline (ce)", "student (ce + auxiliary)"},
        ),
        (["experiment=ferkd", "modules.student.low=0.0"], {"teacher (ce)", "baseline (ce)", "student (ce)"}),
        (["experiment=ema_teacher"], {"baseline (ce)", "student (ce + kd)"}),
        (["experiment=self_distill"], {"baseline (ce)", "student (pskd)"}),
        (["experiment=self_distill", "objective=uskd"], {"baseline (ce)", "student (ce + uskd)"}),
    ],
)
def test_each_experiment_runs_and_reports(run, overrides, parts):
    # Experiments without a teacher have no teacher.width to set.
    short = SHORT[:-1] if overrides[0] in ("experiment=self_distill", "experiment=ema_teacher") else SHORT
    report = run(*overrides, short=short)
    assert {evaluation.trained.label for evaluation in report.evaluations} == parts
    assert set(report.scores()) == set(SCORE_NAMES)
    content = json.loads((run.folder / "report" / "report.json").read_text())
    for network in content["networks"]:
        assert len(network["history"]["val/accuracy"]) == len(network["history"]["train/loss"]) == 2
        assert network["before"]["accuracy"] == network["after"]["accuracy"]
        assert all(math.isfinite(value) for value in [*network["before"].values(), *network["after"].values()])
    for name in [*content["pictures"], "report.md"]:
        assert (run.folder / "report" / name).stat().st_size > 500
    assert f"reliability_{content['networks'][-1]['name']}.png" in content["pictures"]


def test_classify_trains_one_network(run):
    report = run("experiment=classify", short=SHORT[:-1])
    assert [evaluation.trained.label for evaluation in report.evaluations] == ["student (ce)"]


def test_the_first_run_trains_what_the_second_one_finds(run, tmp_path):
    fresh = f"cache={tmp_path / 'cache'}"
    first = run(fresh, folder=tmp_path / "first")
    second = run(fresh, "objective=kd", folder=tmp_path / "second")
    other_seed = run(fresh, "seed=1", folder=tmp_path / "third")
    longer = run(fresh, "trainer.max_epochs=3", folder=tmp_path / "fourth")

    def kept(report):
        return {evaluation.trained.name: evaluation.trained.kept for evaluation in report.evaluations}

    assert kept(first) == {"teacher": False, "baseline": False, "student": False}
    assert kept(second) == {"teacher": True, "baseline": True, "student": False}
    assert kept(other_seed) == {"teacher": True, "baseline": False, "student": False}
    assert kept(longer) == {"teacher": False, "baseline": False, "student": False}
    for before, after in zip(first.evaluations[:2], second.evaluations[:2], strict=True):
        assert before.before == after.before
        assert before.trained.history == after.trained.history
    assert not (tmp_path / "second" / "checkpoints" / "teacher").exists()


def test_student_and_baseline_begin_alike_and_the_same_run_gives_the_same_numbers(run, tmp_path):
    once = run(folder=tmp_path / "once")
    again = run(f"cache={tmp_path / 'cache'}", folder=tmp_path / "again")
    for first, second in zip(once.evaluations, again.evaluations, strict=True):
        assert torch.equal(first.logits, second.logits)
    # With an objective equal to the baseline's, the student is the baseline.
    same = run("objective=ce", folder=tmp_path / "same").evaluations
    assert torch.equal(same[1].logits, same[2].logits)


def test_best_weights_are_those_of_the_best_epoch(run):
    # A learning rate that leaps away after a good start: the last epoch is not the best.
    report = run(
        "weights=best",
        "optimizer=sgd",
        "optimizer.lr=3",
        "scheduler=none",
        "trainer.max_epochs=4",
        "modules.teacher=null",
        "modules.baseline=null",
        "objective=ce",
        "optimizer.momentum=0",
        "optimizer.nesterov=false",
    )
    student = report.evaluations[-1].trained
    values = student.history["val/accuracy"]
    best = torch.load(run.folder / "checkpoints" / "student" / "best.ckpt", weights_only=True)
    assert best["epoch"] == values.index(max(values)) != 3
    assert all(
        torch.equal(best["state_dict"][f"network.{name}"], value)
        for name, value in student.network.state_dict().items()
    )


@pytest.mark.parametrize("model", ["test_resnet", "vit_tiny"])
def test_models_of_timm_learn_from_a_small_teacher(run, model):
    report = run(
        f"model={model}",
        "modules.baseline=null",
        "trainer.max_epochs=1",
        short=[override for override in SHORT if not override.startswith("model.")],
    )
    assert report.evaluations[-1].parameters > 100_000


def test_early_stopping_and_no_logger_and_no_schedule(run):
    report = run(
        "callbacks=early_stopping",
        "callbacks.early_stopping.patience=1",
        "logger=none",
        "scheduler=none",
        "optimizer=sgd",
        "optimizer.lr=20",
        "modules.teacher=null",
        "modules.baseline=null",
        "objective=ce",
        "trainer.max_epochs=20",
    )
    assert len(report.evaluations[-1].trained.history["val/loss"]) < 20
    assert not (run.folder / "logs").exists()


def test_the_csv_logger_writes_into_the_runs_folder(run):
    run("modules.teacher=null", "modules.baseline=null", "objective=ce")
    (metrics,) = (run.folder / "logs").rglob("metrics.csv")
    assert "val/accuracy" in metrics.read_text().splitlines()[0]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["objective.terms.nkd.loss.temperature=0"], "nkd.loss.temperature=0: give a number above 0"),
        (
            ["experiment=classify", "objective=kd"],
            "needs 'teacher_logits'.*; to give it, set self.teacher in .*DistillationMixin, or run experiment=distill",
        ),
        (["data.train_rows=9"], "train_rows=9 came for 10 classes; give at least 10"),
        (["trainer.limit_val_batches=0"], "trainer.limit_val_batches=0: the report shows"),
        (["trainer.limit_train_batches=0.0001"], "limit_train_batches=0.0001: of .* batches this is less than one"),
        (["trainer.limit_val_batches=0.0001"], "limit_val_batches=0.0001: of .* batches this is less than one"),
        (["+trainer.val_check_interval=100000"], "val_check_interval=100000: an epoch has .* batches; give at most"),
        (["trainer.accelerator=gpu"], "trainer.accelerator=gpu: torch finds no such device on this machine; give"),
        (["+trainer.max_steps=0"], "trainer.max_steps=0: nothing would be trained"),
        (["objective@supervised=kd"], "needs 'teacher_logits'"),
        (["data.num_classes=7"], "num_classes=7 came; it has 10"),
        (["trainer.max_epochs=0"], "max_epochs=0 came"),
        (["trainer=ddp_fork", "trainer.devices=3"], "batch_size=64 came with 3 processes"),
        (["scheduler.warmup=2"], "warmup=2"),
        (["model=vit_tiny", "model.name=vit_tin"], "near it are"),
    ],
)
def test_a_rehearsal_finds_what_can_not_be_trained(overrides, message):
    with pytest.raises(Exception, match=message) as found:
        rehearse(composed("data=digits", *overrides))
    root = found.value
    while root.__cause__ is not None:
        root = root.__cause__
    assert isinstance(root, ValueError)


@pytest.mark.parametrize(
    ("limits", "steps"),
    [
        ({}, 34),
        ({"limit_train_batches": 0.5}, 16),
        ({"limit_train_batches": 1.0}, 34),
        ({"limit_train_batches": 1}, 2),
        ({"limit_train_batches": 100}, 34),
        ({"limit_train_batches": 0.5, "accumulate_grad_batches": 3}, 6),
        ({"limit_train_batches": None}, 34),
    ],
)
def test_a_training_has_the_steps_that_lightning_takes(limits, steps):
    config = OmegaConf.create({"max_epochs": 2, **limits})
    data = SimpleNamespace(train=range(17 * 64), batch_size=64)
    training = Training("student", OmegaConf.create(), OmegaConf.create(), config)
    vars(training)["datamodule"] = data
    assert training.total_steps == steps


def test_batches_that_are_planned_are_counted():
    training = Training("student", OmegaConf.create(), OmegaConf.create(), OmegaConf.create({"max_epochs": 2}))
    data = Digits(batch_size=40, samples_per_class=10, train_rows=100)
    data.setup()
    vars(training)["datamodule"] = data
    # Two whole batches, and none of the rest.
    assert training.total_steps == 4 == 2 * len(data.train_dataloader())


def test_a_given_teacher_is_taken_and_not_trained(run, tmp_path):
    trained = run(f"cache={tmp_path / 'cache'}", folder=tmp_path / "trained")
    weights = tmp_path / "trained" / "checkpoints" / "teacher" / "last.ckpt"
    given = run(f"teacher_weights={weights}", folder=tmp_path / "given")
    assert torch.equal(given.evaluations[0].logits, trained.evaluations[0].logits)
    assert torch.equal(given.evaluations[2].logits, trained.evaluations[2].logits)
    assert given.evaluations[0].trained.label == "teacher (given)"
    assert (tmp_path / "given" / "report" / "losses.png").is_file()


def test_a_given_teacher_that_does_not_fit_stops_the_run_before_anything_is_trained():
    with pytest.raises(ValueError, match="there is no file nowhere.ckpt"):
        rehearse(composed(*SHORT, "teacher_weights=nowhere.ckpt"))


def test_a_teacher_is_trained_on_and_distilled_from(run, tmp_path):
    tuned = run("experiment=fine_tune_teacher", folder=tmp_path / "tuned")
    assert [e.trained.label for e in tuned.evaluations] == ["teacher (ce)", "student (ce + mcmi)"]
    history = tuned.evaluations[-1].trained.history
    assert all(value >= 0 for value in history["train/cmi"]) and len(history["train/cmi"]) == 2
    # It goes on from the teacher's weights: another beginning would be 2.3.
    assert history["train/loss/ce"][0] < tuned.evaluations[0].trained.history["train/loss/ce"][0]
    weights = tmp_path / "tuned" / "checkpoints" / "student" / "last.ckpt"
    report = run(f"teacher_weights={weights}", "modules.baseline=null", "objective=kd", folder=tmp_path / "distilled")
    assert torch.equal(report.evaluations[0].logits, tuned.evaluations[-1].logits)


def test_new_classes_weights_are_aligned_at_the_end(run):
    report = run("callbacks=weight_aligning", "modules.teacher=null", "modules.baseline=null", "objective=ce")
    lengths = report.evaluations[-1].trained.network.head.weight.norm(dim=1)
    torch.testing.assert_close(lengths[5:].mean(), lengths[:5].mean())


@pytest.mark.parametrize("experiment", ["ferkd", "distill_cached", "fine_tune_teacher", "tgeo", "distill_ensemble"])
def test_a_rehearsal_takes_a_step_of_every_network(experiment, monkeypatch):
    stepped = []

    def step(module, *rest):
        logged = rehearse_step(module, *rest)
        stepped.append(any(parameter.grad is not None for parameter in module.parameters()))
        return logged

    monkeypatch.setattr("lightning_losses.experiments.training.training.rehearse_step", step)
    chosen = experiment_of(composed(f"experiment={experiment}", *SHORT))
    chosen.rehearse()
    assert stepped == [True] * len(chosen.trainings())


def test_a_configuration_passes_ten_files_on_its_way_to_a_training(tmp_path, cache, monkeypatch):
    """The functions of recipes and experiments that run before `fit` are in the files that docs/design.md lists."""
    entered = set()

    def note(frame, event, argument):
        entered.add(frame.f_code)

    def fit(*_, **__):
        sys.settrace(None)
        raise KeyboardInterrupt

    monkeypatch.setattr(lightning.Trainer, "fit", fit)
    trace = sys.gettrace()
    sys.settrace(note)
    try:
        with pytest.raises(SystemExit):
            main([*SHORT[:-1], "experiment=classify", f"cache={cache}", f"hydra.run.dir={tmp_path}"])
    finally:
        sys.settrace(trace)
    # A class's body and a module's are no functions.
    files = {Path(code.co_filename) for code in entered if code.co_flags & inspect.CO_OPTIMIZED}
    passed = {file.relative_to(ROOT).as_posix() for file in files if file.is_relative_to(ROOT)}
    page = (ROOT / "docs" / "design.md").read_text()
    text = page.partition("## What happens to a configuration")[2].partition("\n## ")[0]
    listed = re.findall(r"^\d+\. \[[^]]+\]\(\.\./([^)]+)\)", text, re.MULTILINE)
    own = {file for file in passed if file.startswith(("recipes/", "lightning_losses/experiments/"))}
    # This one has no teacher to keep.
    assert own == {file for file in listed if "kept_networks" not in file} and len(listed) <= 10
