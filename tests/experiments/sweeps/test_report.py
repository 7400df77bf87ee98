import csv
import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

from lightning_losses.experiments.sweeps.report import SweepReport, best_command
from lightning_losses.experiments.sweeps.sweep_file import read_sweep
from lightning_losses.experiments.sweeps.trials import Trial

# A name that is on the path, if it is this one.
PYTHON = (
    "python" if shutil.which("python") and Path(shutil.which("python")).samefile(sys.executable) else sys.executable
)
SWEEP = {
    "method": "random",
    "program": "train.py",
    "metric": {"name": "val/loss"},
    "parameters": {
        "objective_name": {"values": ["kd", "ce"]},
        "objectives.kd.terms.kd.loss.temperature": {"min": 1.0, "max": 4.0},
        "optimizer.lr": {"distribution": "log_uniform_values", "min": 0.001, "max": 0.1},
        "seed": {"value": 7},
    },
    "command": ["${env}", "${interpreter}", "${program}", "${args_no_hyphens}"],
}


@pytest.fixture
def report(tmp_path):
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(SWEEP))
    sweep = read_sweep(tmp_path / "sweep.yaml")
    rows = [
        ({"objective_name": "ce", "optimizer.lr": 0.01, "seed": 7}, [2.0, 3.0], "finished"),
        (
            {
                "objective_name": "kd",
                "objectives.kd.terms.kd.loss.temperature": 2.5,
                "optimizer.lr": 0.02,
                "seed": 7,
            },
            [1.5, 1.0],
            "finished",
        ),
        ({"objective_name": "ce", "optimizer.lr": 0.03, "seed": 7}, [0.5], "stopped"),
        ({"objective_name": "ce", "optimizer.lr": 0.05, "seed": 7}, [], "failed"),
    ]
    trials = []
    for number, (parameters, losses, state) in enumerate(rows):
        trial = Trial(number, parameters, tmp_path / str(number), state=state, seconds=1.25, message="no | space")
        trial.folder.mkdir()
        lines = [json.dumps({"val/loss": loss}) for loss in losses]
        (trial.folder / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
        trials.append(trial)
    best = best_command(sweep, trials, ["data=digits"])
    return SweepReport(sweep, trials, "python recipes/sweep.py sweep.yaml count=4", best)


def test_the_table_has_the_best_first_and_an_objectives_own_parameters(report):
    assert report.columns() == [
        "trial",
        "val/loss",
        "last val/loss",
        "objective_name",
        "lr",
        "of its own",
        "state",
        "seconds",
    ]
    assert report.rows() == [
        ["2", "0.5", "0.5", "ce", "0.03", "–", "stopped", "1.2"],
        ["1", "1", "1", "kd", "0.02", "temperature 2.5", "finished", "1.2"],
        ["0", "2", "3", "ce", "0.01", "–", "finished", "1.2"],
        ["3", "–", "–", "ce", "0.05", "–", "failed", "1.2"],
    ]
    assert "In all: seed=7." in report.note()


def test_the_best_command_is_that_of_a_finished_trial(report):
    assert report.best == (
        f"{PYTHON} train.py objective_name=kd objectives.kd.terms.kd.loss.temperature=2.5 optimizer.lr=0.02 seed=7 "
        "data=digits"
    )


@pytest.mark.parametrize(
    ("started", "again"),
    [
        ("lightning-losses sweep", "lightning-losses train"),
        ("python -m lightning_losses sweep", "python -m lightning_losses train"),
        ("python recipes/sweep.py", "python recipes/train.py"),
    ],
)
def test_a_recipe_is_started_again_as_the_sweep_was(tmp_path, started, again):
    definition = {**SWEEP, "program": "/venv/lib/lightning_losses/recipes/train.py"}
    definition["parameters"] = {"optimizer": {"parameters": {"lr": {"value": 0.1}}}, "resume": {"value": None}}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(definition))
    trial = Trial(0, {"optimizer.lr": 0.1, "resume": None}, tmp_path, state="finished")
    (tmp_path / "metrics.jsonl").write_text('{"val/loss": 1.0}\n')
    best = best_command(read_sweep(tmp_path / "sweep.yaml"), [trial], ["output=my runs"], program=started)
    assert best == f"{again} optimizer.lr=0.1 resume=null 'output=my runs'"


def test_files(report, tmp_path, capsys):
    report.page().write(tmp_path / "out")
    text = (tmp_path / "out" / "sweep.md").read_text()
    assert "| 1 | 1 | 1 | kd | 0.02 | temperature 2.5 | finished | 1.2 |" in text
    assert "Trial 3 failed: no | space" in text
    with (tmp_path / "out" / "sweep.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["trial"] for row in rows] == ["2", "1", "0", "3"]
    assert rows[1]["objectives.kd.terms.kd.loss.temperature"] == "2.5" and rows[0]["val/loss"] == "0.5"
    with Image.open(tmp_path / "out" / "parallel_coordinates.png") as picture:
        assert min(picture.size) > 500
    report.page().show()
    assert "temperature 2.5   finished" in capsys.readouterr().out
