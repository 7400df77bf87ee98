"""Grokking experiments: gates, settings of runs, a whole small run, and its resuming."""

import json
import math
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from lightning_losses.experiments.config.check_config import check_config
from lightning_losses.experiments.config.instantiate import ConfigError, instantiate
from lightning_losses.experiments.config.settings import TrainSettings
from lightning_losses.experiments.evidence.gates import Gate
from lightning_losses.experiments.kinds.grok import Grokking, _number_names, settings_of
from lightning_losses.experiments.training.rehearsal import rehearse_step
from lightning_losses.experiments.training.steps_per_batch import steps_per_batch
from lightning_losses.experiments.training.training import callbacks_of

CONF = Path(__file__).parents[2] / "conf"
EXPERIMENTS = ["grok_perpgrad", "grok_stablemax", "grok_precision", "grok_xor", "grok_lazy_rich", "grok_compare"]
NUMBERS = {"a": {"delay": 1.0, "never": math.nan}, "b": {"delay": 3.0}}


@pytest.mark.parametrize(
    ("gate", "passes"),
    [
        (Gate(["a"], "delay", at_least=1), True),
        (Gate(["a", "b"], "delay", at_least=2), False),
        (Gate(["a", "b"], "delay", at_most=3), True),
        (Gate(["b"], "delay", at_most=2), False),
        (Gate(["a", "b"], "delay", order="increasing"), True),
        (Gate(["a", "b"], "delay", order="decreasing"), False),
        (Gate(["a"], "never", at_most=1e9), False),
    ],
)
def test_gates(gate, passes):
    assert gate.passes(NUMBERS) is passes


@pytest.mark.parametrize(
    "make",
    [
        lambda: Gate(["a"], "delay"),
        lambda: Gate(["a"], "delay", order="increasing"),
        lambda: Gate(["a", "b"], "delay", order="up"),
        lambda: Gate(["c"], "delay", at_least=0).passes(NUMBERS),
        lambda: Gate(["a"], "speed", at_least=0).passes(NUMBERS),
    ],
)
def test_gates_that_say_nothing_are_refused(make):
    with pytest.raises(ValueError, match="gate on"):
        make()


def config(experiment, *overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", overrides=[f"experiment={experiment}", *overrides])


@pytest.mark.slow
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_run_of_every_experiment_takes_a_step(experiment, monkeypatch):
    stepped = []

    def step(module, *rest):
        rehearse_step(module, *rest)
        stepped.append(any(parameter.grad is not None for parameter in module.parameters()))

    monkeypatch.setattr("lightning_losses.experiments.kinds.grok.rehearse_step", step)
    chosen = config(experiment)
    check_config(chosen, TrainSettings)
    Grokking(chosen).rehearse()
    assert stepped == [True] * len(chosen.runs)


def chosen(settings):
    return steps_per_batch(settings, instantiate(settings.data).steps_per_epoch, callbacks_of(settings.callbacks))


@pytest.mark.parametrize(
    ("experiment", "steps"),
    [
        ("grok_lazy_rich", {"rich": 25, "between": 25, "lazy": 25}),
        ("grok_xor", {"gradient_descent": 1}),
        (
            "grok_stablemax",
            {
                "parity_cross_entropy": 100,
                "parity_stablemax": 100,
                "addition_cross_entropy": 20,
                "addition_stablemax": 20,
            },
        ),
    ],
)
def test_a_batch_is_the_steps_that_nobody_looks_between(experiment, steps):
    whole = config(experiment)
    assert {name: chosen(settings_of(whole, run)) for name, run in whole.runs.items()} == steps


@pytest.fixture(scope="module")
def perpgrad():
    """Epochs of 50 steps, a look every 10."""
    return config("grok_perpgrad")


@pytest.mark.parametrize(
    ("name", "value", "steps"),
    [
        ("trainer.val_check_interval", 4, 2),
        ("trainer.val_check_interval", 0.5, 1),
        ("trainer.max_steps", 203, 1),
        ("trainer.gradient_clip_val", 1.0, 1),
        ("trainer.accumulate_grad_batches", 2, 1),
        ("data.steps_per_epoch", 25, 5),
        ("callbacks.weight_norms.every_n_steps", 5, 5),
        # It looks at gradients, at every step.
        ("callbacks.nlm_cosine.every_n_steps", 7, 10),
        ("callbacks.grokking.train_batches", 2, 1),
        ("callbacks.own", {"_target_": "lightning_losses.callbacks.interventions.numerics_guard.NumericsGuard"}, 1),
        ("modules.student.steps_per_batch", 5, 5),
    ],
)
def test_what_is_looked_at_decides_the_steps_of_a_batch(perpgrad, name, value, steps):
    settings = perpgrad.copy()
    OmegaConf.update(settings, name, value, force_add=True)
    assert chosen(settings) == steps


def test_a_number_of_steps_that_skips_a_look_is_refused(perpgrad):
    settings = perpgrad.copy()
    OmegaConf.update(settings, "modules.student.steps_per_batch", 4, force_add=True)
    with pytest.raises(ConfigError, match=r"steps_per_batch=4: it must divide data.steps_per_epoch 50;.*here 10"):
        Grokking(settings).rehearse()


REFUSED = [
    ("runs", None, "runs: there are none; give at least one, as conf/experiment/grok_perpgrad.yaml does."),
    ("runs.perpgrad", None, "runs.perpgrad: give it a label, and its changed values under `set`, or "
     "leave it out by ~runs.perpgrad."),
    ("runs.perpgrad.set", {"optimiser.lr": 1}, "runs.perpgrad.set.optimiser.lr: the configuration has no "
     "optimiser; give a key as on the command line, such as optimizer.lr."),
    ("runs.perpgrad.set", {"optimizer.lr": -1}, "runs.perpgrad.set: optimizer.lr=-1: give a number at least 0."),
    ("runs.perpgrad.set", {"trainer.max_steps": 0}, "runs.perpgrad.set: trainer.max_steps=0: nothing would be "
     "trained; give at least 1, or -1 for no limit."),
    ("runs.perpgrad.set", {"modules.student": None}, "runs.perpgrad.set: modules.student=null: it is what a run "
     "trains; leave it as the experiment has it, or choose another experiment."),
    ("callbacks.grokking", None, "callbacks: no GrokkingMonitor is among them, whose curves the report shows; give "
     "callbacks=grokking."),
    ("gates", 3, "gates=3: give a list, each {runs: [RUN], value: NUMBER, at_least: BOUND}."),
    ("gates", [{"run": ["a"], "value": "delay", "at_most": 1}], "gates: a gate has no 'run'; did you mean runs? Choose "
     "one of: at_least, at_most, order, runs, value."),
    ("gates", [{"value": "delay", "at_most": 1}], "gates: {'value': 'delay', 'at_most': 1} came; give each gate its "
     "runs, a list, and value, the name of a number."),
    ("gates", [{"runs": ["a"], "value": "delay", "at_most": 1}], "gate on 'delay': there is no run 'a'; there are "
     "cross_entropy, perpgrad."),
    ("gates", [{"runs": ["perpgrad"], "value": "speed", "at_most": 1}], "gate on 'speed': the run 'perpgrad' has no "
     "such number; it has highest test accuracy, lowest test accuracy, first test accuracy, final test accuracy, final "
     "train accuracy, memorised, generalised, delay, ratio, steps, seconds, highest collapse, half collapsed."),
    ("weights", "best", "weights: the experiments on grokking don't use it; leave it out."),
    ("execution.compile", "eager", "execution.compile: the experiments on grokking don't use it; leave it out."),
    ("trainer.devices", 2, "trainer: a step of this experiment is on the whole training split, and further processes "
     "would only repeat it; give trainer.devices=1 and trainer.strategy=auto."),
    ("trainer.limit_val_batches", 0, "trainer.limit_val_batches=0: the report shows what validation found; give 1, or "
     "null for all."),
    ("trainer.fast_dev_run", True, "trainer.fast_dev_run=True: nothing would be reported; use max_steps=10."),
    ("trainer.max_epochs", 0, "trainer.max_epochs=0: nothing would be trained; give at least 1, or -1 for no limit."),
    ("trainer.max_steps", -1, "trainer.max_steps=-1: the run would have no end; give at least 1."),
    ("trainer.limit_train_batches", 0.01, "trainer.limit_train_batches=0.01: of 50 batches this is less than one; give "
     "at least 0.02, or a whole number of batches."),
    ("trainer.val_check_interval", 0.01, "trainer.val_check_interval=0.01: of 50 steps of an epoch this is less than "
     "one; give at least 0.02, or a whole number of steps."),
    ("trainer.val_check_interval", 51, "trainer.val_check_interval=51: an epoch has 50 steps; give at most that, or "
     "a larger data.steps_per_epoch."),
    ("trainer.max_steps", 9, "trainer: the run ends after 9 batches, but its report needs a validation, and the "
     "first is after 10; give more trainer.max_steps, or a smaller trainer.val_check_interval."),
    ("trainer.check_val_every_n_epoch", 7, "trainer: the run ends after 300 batches, but its report needs a "
     "validation, and the first is after 310; give more trainer.max_steps, or a smaller "
     "trainer.val_check_interval."),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value", "message"), REFUSED, ids=lambda value: None)
def test_what_could_not_be_reported_is_refused_before_anything_is_trained(perpgrad, key, value, message):
    settings = perpgrad.copy()
    settings.data.prime = 11
    OmegaConf.update(settings, key, value, merge=False, force_add=True)
    with pytest.raises(ValueError) as found:
        Grokking(settings).rehearse()
    assert str(found.value) == message


def test_weights_that_are_not_finite_end_the_run(tmp_path):
    settings = small()
    settings.optimizer.lr = 1e30
    with pytest.raises(ValueError) as found:
        Grokking(settings).run(tmp_path)
    assert str(found.value) == (
        "network.stages.0.0.weight isn't finite after 5 steps; give a smaller optimizer.lr, or look for the step with "
        "+callbacks.guard._target_=lightning_losses.callbacks.interventions.numerics_guard.NumericsGuard."
    )


def small():
    """Two runs of few steps on a small table, one of them with an intervention that keeps a state."""
    settings = config("grok_perpgrad", "data.prime=11", "data.steps_per_epoch=5", "trainer.val_check_interval=5")
    OmegaConf.update(settings, "trainer.max_steps", 10)
    grokfast = {"_target_": "lightning_losses.callbacks.interventions.grokfast.Grokfast", "alpha": 0.5}
    settings.runs.perpgrad.set = {"callbacks.grokfast": grokfast}
    return settings


def test_a_run_writes_its_report(tmp_path):
    runs = Grokking(small()).run(tmp_path)
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert set(report["runs"]) == set(runs) == {"cross_entropy", "perpgrad"}
    assert report["runs"]["cross_entropy"]["generalised"] is None
    assert report["runs"]["cross_entropy"]["curves"]["test"]["steps"] == [5, 10]
    numbers = [name for name in report["runs"]["cross_entropy"] if name not in ("label", "curves")]
    assert numbers == _number_names(callbacks_of(small().callbacks))
    assert report["passed"] is False and [gate["passed"] for gate in report["gates"]] == [False, True, False]
    assert "FAILED" in (tmp_path / "report" / "report.md").read_text()
    for picture in ("grokking.png", "perpgrad/grokking.png", "perpgrad/weight_norms.png"):
        assert (tmp_path / "report" / picture).stat().st_size > 10_000


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(tmp_path):
    settings = small()
    # One step at a time: what several on a batch must not change.
    one_by_one = settings.copy()
    OmegaConf.update(one_by_one, "modules.student.steps_per_batch", 1, force_add=True)
    whole = Grokking(one_by_one).run(tmp_path / "whole")
    half = settings.copy()
    half.trainer.max_steps = 5
    Grokking(half).run(tmp_path / "half")
    settings.resume = str(tmp_path / "half")
    other = settings.copy()
    other.optimizer.lr = 0.5
    for refused in (lambda: Grokking(other).rehearse(), lambda: Grokking(other).run(tmp_path / "half")):
        with pytest.raises(ValueError, match=r"begun with other settings \(modules.student.optimizer.lr\)"):
            refused()
    Grokking(settings).rehearse()
    resumed = Grokking(settings).run(tmp_path / "half")
    for name, run in whole.items():
        assert [curve._asdict() for curve in resumed[name].curves] == [curve._asdict() for curve in run.curves]
        assert resumed[name].collapse == run.collapse
