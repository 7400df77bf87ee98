"""Comparisons over learning rates: a whole small one of language models, divergence, what is refused."""

import csv
import json
import math
import re
from types import SimpleNamespace

import pytest
from torch import nn

from lightning_losses.diagnostics.learning_rate_sensitivity import learning_rate_sensitivity
from lightning_losses.experiments.comparison.comparison_plan import plan
from lightning_losses.experiments.comparison.comparison_report import Comparison
from lightning_losses.experiments.comparison.learning_rates import LearningRates
from lightning_losses.experiments.comparison.runner import Runner
from lightning_losses.experiments.config.check_config import ConfigError
from lightning_losses.experiments.loggers.loggers import log_folder
from lightning_losses.experiments.training.training import Training
from tests.recipes import wandb_file
from tests.recipes.conftest import SHORT as SHORT_RUN
from tests.recipes.conftest import composed as composed_training
from tests.recipes.test_comparison import compare, composed, rehearse, small

WORDS = [
    "comparison=learning_rate_sensitivity",
    "seeds=2",
    "learning_rates=[0.001,1.0]",
    # All four take a step in test_every_shipped_comparison_takes_a_step.
    'objectives=["plain: ce","qk-norm: z_loss model.qk_norm=true"]',
]
# Beside them; they hold for every run.
SHORT = ["data.max_bytes=30000", "data.batch_size=2", "model.width=8", "model.depth=1", "trainer.limit_train_batches=3"]


def test_the_shipped_comparison_ends_in_sensitivities_and_trains_nothing_twice(tmp_path, monkeypatch):
    begun, run = [], Training.run
    monkeypatch.setattr(Training, "run", lambda self, *given, **more: begun.append(self) or run(self, *given, **more))
    found = compare(small(tmp_path, *WORDS), tmp_path / "run", [*SHORT, *WORDS])
    assert len(begun) == 2 * 2 * 2 and not found.broken and found.seeds == (20, 21)
    assert {training.module.network.qk_norm for training in begun} == {True, False}
    report = tmp_path / "run" / "report"
    lines = list(csv.DictReader((report / "learning_rates.csv").read_text().splitlines()))
    assert len(lines) == len(begun)
    for run_name in found.runs:
        for order, seed in enumerate(found.seeds):
            own = [line for line in lines if (line["run"], line["seed"]) == (run_name, str(seed))]
            assert [float(line["learning_rate"]) for line in own] == [0.001, 1.0]
            losses, (initial,) = [float(line["nll"]) for line in own], {float(line["initial_nll"]) for line in own}
            # Untrained, a network gives each byte 1/256.
            assert initial == pytest.approx(math.log(256), abs=0.05) and len(set(losses)) == 2
            expected = learning_rate_sensitivity(losses, initial)
            assert found.values[""][run_name]["sensitivity"][order] == expected > 0
            assert found.values[""][run_name]["lowest_nll"][order] == min(losses)
    text = (report / "comparison.md").read_text()
    assert "| | LR sensitivity | lowest NLL | seconds |" in text
    assert "| | 0.001 | 1 |" in text and "![learning rates](learning_rates.png)" in text
    assert (report / "learning_rates.png").read_bytes().startswith(b"\x89PNG")
    assert found.judged() and "LR sensitivity of qk-norm minus plain: " in text
    read = Comparison.read(report / "comparison.json")
    assert read.tables() == found.tables() and read.learning_rates == found.learning_rates

    begun.clear()
    again = compare(small(tmp_path, *WORDS), tmp_path / "again", [*SHORT, *WORDS])
    assert begun == [] and again.values == found.values


def test_divergence_is_a_result_and_counts_as_no_training(tmp_path):
    words = ["objectives=[ce]", "learning_rates=[0.1,1e30]", "columns=[sensitivity]"]
    shared = ["data=digits", "model.width=4", "optimizer=sgd", "trainer.max_epochs=1", "trainer.limit_train_batches=3"]
    for place in ("run", "kept"):
        found = compare(small(tmp_path, *words), tmp_path / place, [*shared, *words])
        rates = found.learning_rates
        assert not found.broken and rates.diverged("ce") == [0, 2] and all(map(math.isnan, rates.final["ce"][1]))
        best, initial = rates.final["ce"][0], rates.initial["ce"][0]
        assert initial == rates.initial["ce"][1] and initial[0] == pytest.approx(math.log(10), abs=0.5)
        expected = [(start - low) / 2 for start, low in zip(initial, best, strict=True)]
        assert found.values[""]["ce"]["sensitivity"] == pytest.approx(expected)
        assert found.tables()[1].rows[0][2].endswith(", 2×")
        lines = (tmp_path / place / "report" / "learning_rates.csv").read_text()
        assert lines.count("diverged") == 2 and lines.count("finite") == 2
    json.loads((tmp_path / "run" / "report" / "comparison.json").read_text(), parse_constant=pytest.fail)


@pytest.mark.parametrize(("rates", "nll"), [({"0.1": 0.1}, 0.25), ({}, math.nan)])
def test_a_task_with_numbers_of_its_own_is_compared_by_its_nll_too(rates, nll):
    network = nn.Linear(1, 1)
    task = SimpleNamespace(nll=lambda network, student: 0.25, numbers=lambda trained, student: {"rmse": 0.5})
    student = SimpleNamespace(build=lambda teacher: nn.ModuleDict({"network": network}))
    runner = SimpleNamespace(planned=SimpleNamespace(learning_rates=rates), tolerant=True)
    run = SimpleNamespace(experiment=task, student=student)
    numbers = Runner._measure(runner, run, None, SimpleNamespace(network=network), 1.0)
    assert numbers["nll"] == pytest.approx(nll, nan_ok=True) and numbers["rmse"] == 0.5


def test_divergence_at_every_rate_is_no_success(tmp_path):
    words = ["objectives=[ce]", "learning_rates=[1e29,1e30]", "columns=[sensitivity]", "seeds=1"]
    shared = ["data=digits", "model.width=4", "optimizer=sgd", "trainer.max_epochs=1", "trainer.limit_train_batches=3"]
    compared = compare(small(tmp_path, *words), tmp_path / "run", [*shared, *words])
    assert compared.broken == ["every run diverged at every learning rate; give smaller ones"]


def test_a_seed_that_broke_at_a_rate_has_no_sensitivity():
    rates = LearningRates(
        (0.1, 1.0),
        final={"a": [[1.0, 2.0], [math.nan, None]]},
        initial={"a": [[3.0, 3.0], [3.0, None]]},
        seconds={"a": [[1.0, 1.0], [1.0, None]]},
    )
    summary = rates.summary()["a"]
    assert summary["sensitivity"][0] == 1 and math.isnan(summary["sensitivity"][1])
    # Those of the rates that are left are not those of the other runs.
    assert summary["lowest_nll"][0] == 1 and math.isnan(summary["lowest_nll"][1])
    assert summary["seconds"][0] == 2 and math.isnan(summary["seconds"][1])
    assert rates.diverged("a") == [0, 1] and rates.table((7, 8)).csv().count("broke") == 1


def test_where_every_seed_broke_at_a_rate_the_report_has_no_picture():
    numbers = {"a": [[1.0, 2.0], [None, None]]}
    rates = LearningRates((0.1, 1.0), final=numbers, initial=numbers, seconds=numbers)
    comparison = Comparison("t", "c", {"": ""}, {"a": "ce"}, "a", (7, 8), {"": rates.summary()}, ("sensitivity",),
                       learning_rates=rates)  # fmt: skip
    assert comparison.page().figures == {}


def test_wandb_is_told_the_sensitivities(tmp_path):
    (tmp_path / "report").mkdir()
    log_folder(composed_training("logger=wandb"), tmp_path, {"learning_rate_sensitivity/plain": 0.25})
    logged = wandb_file.history(wandb_file.records(tmp_path))
    assert [line["learning_rate_sensitivity/plain"] for line in logged if len(line) > 1] == [0.25]


def test_a_training_run_draws_and_sends_what_its_monitors_saw(run, tmp_path):
    words = ["experiment=classify", "objective=ce", "callbacks=learning_rate_sensitivity", "logger=wandb"]
    settings = [f"callbacks.learning_rate_sensitivity.{word}" for word in ("every_n_steps=2", "trial_steps=1")]
    run(*words, *settings, short=[word for word in SHORT_RUN if not word.startswith("teacher")])
    assert (run.folder / "report" / "learning_rate_sensitivity.png").read_bytes().startswith(b"\x89PNG")
    logged = {name for line in wandb_file.history(wandb_file.records(run.folder)) for name in line}
    assert "learning_rate_sensitivity/best_multiple" in logged
    assert any(name.startswith("report/learning_rate_sensitivity") for name in logged)


def test_every_objective_is_trained_at_every_rate():
    config = composed("objectives=[ce,label_smoothing]", "learning_rates=[0.1,0.001]", "seeds=2")
    planned = plan(config, ["data=digits"])
    assert planned.learning_rates == {"0.001": 0.001, "0.1": 0.1} and len(planned.planned) == 8
    assert {next(word for word in one.words if word.startswith("optimizer.lr=")) for one in planned.planned} == {
        "optimizer.lr=0.001", "optimizer.lr=0.1"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["learning_rates=[0.1]"], "give two or more different ones above 0"),
        (["learning_rates=[0.1,0.1]"], "give two or more different ones above 0"),
        (["learning_rates=[0.1,0]"], "give two or more different ones above 0"),
        (["learning_rates=[0.1,1]", 'settings=["few: data.train_rows=60"]'], "settings came too"),
        (["learning_rates=[0.1,1]", "optimizer.lr=3"], "optimizer.lr came too"),
    ],
)
def test_what_can_not_be_compared_is_a_message(words, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        plan(composed(*words), words)


def test_language_models_are_compared_over_learning_rates_alone():
    config = composed("objectives=[ce]", 'common=["experiment=language_model"]')
    with pytest.raises(ConfigError, match="a comparison of language models is one over learning rates"):
        rehearse(config)
