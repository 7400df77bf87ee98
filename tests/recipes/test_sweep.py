import importlib.util
import json
import sys
from pathlib import Path

import pytest
import yaml

from lightning_losses.experiments.sweeps.runner import Runner
from lightning_losses.experiments.sweeps.trials import Trial
from lightning_losses.recipes import sweep as recipe
from lightning_losses.recipes import train

ROOT = Path(__file__).parents[2]
TINY = ["data=digits", "model.width=4", "trainer.max_epochs=1", "trainer.limit_train_batches=2", "logger=none"]


@pytest.fixture
def main(monkeypatch, capsys):
    """The command line; its exit code and what it printed."""

    def main(*arguments):
        monkeypatch.setattr(sys, "argv", ["recipes/sweep.py", *arguments])
        code = 0
        try:
            recipe.main()
        except SystemExit as exit:
            code = exit.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return main


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["count=3"], "sweep: none came; give one sweep file"),
        (["a.yaml", "b.yaml"], "sweep: a.yaml, b.yaml came; give one"),
        (["conf/sweep/distill.yaml"], "conf/sweep/distill.yaml: method bayes has no end"),
        (
            ["conf/sweep/nowhere.yaml"],
            "conf/sweep/nowhere.yaml: there is no such file; give a W&B sweep file, or one of",
        ),
        (["nowhere.yaml"], "nowhere.yaml: there is no such file"),
        (["distill", "count=0"], "count=0: give a whole number of at least 1."),
        (["distill", "count=x"], "count=x: give a whole number of at least 1."),
        (["distill", "retry=yes"], "retry=yes: give true or false."),
        (["distill", "counts=3"], "counts=3: did you mean count?"),
        (["distill"], "method bayes has no end; give count=10, or run_cap in the file."),
        (["distill", "count=3", "optimizer.rate=1"], "there is no 'rate' in optimizer"),
    ],
)
def test_what_can_not_be_run_is_one_sentence(main, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, out, err = main(*arguments)
    assert code == 2 and err.startswith("Error: ") and message in err and err.count("\n") == 1
    assert "Traceback" not in out + err and list(tmp_path.iterdir()) == []


def test_a_sweep_all_of_whose_trials_failed_is_no_success(main, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    program = str(ROOT / "tests" / "experiments" / "sweeps" / "fake_run.py")
    parameters = {"lr": {"value": 1.0}, "fails": {"values": [True, False]}}
    definition = {"method": "grid", "program": program, "parameters": parameters, "metric": {"name": "val/loss"}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(definition))
    for _ in range(2):
        # Also where nothing was left to do.
        code, _, err = main("own.yaml", "count=1")
        assert code == 1 and "every trial failed; retry=true" in err
    assert main("own.yaml", "count=2")[0] == 0
    # So many failures, and nothing else, that it is left.
    parameters = {"lr": {"values": [1.0, 2.0, 3.0, 4.0]}, "fails": {"value": True}}
    (tmp_path / "fails.yaml").write_text(yaml.safe_dump({**definition, "parameters": parameters}))
    code, _, err = main("fails.yaml")
    assert code == 1 and "the first 3 trials failed" in err
    # Each ended by itself, and none came to anything.
    parameters = {"lr": {"value": "nan"}}
    (tmp_path / "nan.yaml").write_text(yaml.safe_dump({**definition, "parameters": parameters}))
    code, _, err = main("nan.yaml", "count=1")
    assert code == 1 and "no trial has a finite value of val/loss" in err


def test_a_bundled_file_runs_without_wandb(main, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "wandb" else there(name))
    commands = []

    def run(self, count, *, retry):
        commands.append(self.command(Trial(0, {"objective": "kd", "seed": 0}, tmp_path / "trial")))

    monkeypatch.setattr(Runner, "run", run)
    _, out, _ = main("seeds", "data=digits")
    assert "W&B is not installed: the trials log into CSV files (logger=csv)." in out
    assert [word for word in commands[0] if word.startswith("logger=")] == ["logger=wandb", "logger=csv"]
    main("seeds", "data=digits", "logger=none")
    assert commands[1][-2] == "logger=none"


def test_a_sweeps_folder_is_tried_before_its_trials(main, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a_file").touch()
    code, _, err = main("distill", "count=1", "folder=a_file/sweep")
    said = f"folder=a_file/sweep: {tmp_path}/a_file can't be written: Not a directory; give another folder."
    assert code == 2 and err == f"Error: {said}\n"


def test_help_names_every_setting(main):
    code, out, _ = main("--help")
    assert code == 0
    for name in ("count=", "parallel=", "folder=", "search_seed=", "retry="):
        assert name in out


@pytest.mark.slow
def test_a_sweep_of_the_train_recipe_ends_in_a_table_and_a_picture(main, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIGHTNING_LOSSES_CACHE", str(tmp_path / "cache"))
    definition = yaml.safe_load((ROOT / "conf" / "sweep" / "calibration.yaml").read_text())
    definition["program"] = str(ROOT / "recipes" / "train.py")
    definition["parameters"]["objective_name"]["values"] = ["focal"]
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(definition))
    code, out, err = main("own.yaml", "count=1", *TINY)
    assert code == 0, err
    assert "focal" in out and "The best trial again:" in out
    folder = tmp_path / "outputs" / "sweeps" / "own"
    for name in ("sweep.md", "sweep.csv", "parallel_coordinates.png"):
        assert (folder / name).is_file()
    report = json.loads((folder / "trials" / "0000" / "report" / "report.json").read_text())
    gamma = next(
        json.loads(line)["parameters"]["objectives.focal.terms.focal.loss.gamma"]
        for line in (folder / "trials.jsonl").read_text().splitlines()[:1]
    )
    assert report["settings"]["modules"]["student"]["objective"]["terms"]["focal"]["loss"]["gamma"] == gamma
    history = report["networks"][-1]["history"]["val/loss"]
    assert f"| {min(history):.4g} |" in (folder / "sweep.md").read_text()


@pytest.mark.slow
# Optuna 2 and the plugin have warnings of their own.
@pytest.mark.filterwarnings("default")
def test_hydras_own_sweeper_optuna_gets_the_metric(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIGHTNING_LOSSES_CACHE", str(tmp_path / "cache"))
    settings = ["hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=1", "hydra.sweep.dir=sweep"]
    search = ["optimizer.lr=tag(log,interval(0.001,0.1))", "optimized_metric=val/loss", "experiment=classify"]
    arguments = ["-m", "hydra/sweeper=optuna", *settings, *search, *TINY]
    monkeypatch.setattr(sys, "argv", [str(ROOT / "recipes" / "train.py"), *arguments])
    train.main()
    losses = [
        json.loads((tmp_path / "sweep" / str(job) / "report" / "report.json").read_text())["networks"][-1]["history"]
        for job in range(2)
    ]
    found = yaml.safe_load((tmp_path / "sweep" / "optimization_results.yaml").read_text())
    assert found["best_value"] == pytest.approx(min(history["val/loss"][-1] for history in losses))
