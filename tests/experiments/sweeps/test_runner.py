"""Sweeps of runs that take no time: what is run, what is stopped, and what an interruption leaves."""

import contextlib
import json
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import yaml

from lightning_losses.experiments.config.check_config import ConfigError
from lightning_losses.experiments.sweeps.runner import AllFailedError, Runner
from lightning_losses.experiments.sweeps.sweep_file import read_sweep
from lightning_losses.experiments.sweeps.trials import Journal

PROGRAM = str(Path(__file__).with_name("fake_run.py"))
GRID = {"lr": {"values": [3.0, 1.0, 2.0]}}


def sweep_of(folder, method="grid", parameters=GRID, **content):
    path = folder / "sweep.yaml"
    content = {"metric": {"name": "val/loss"}, "program": PROGRAM, **content}
    path.write_text(yaml.safe_dump({"method": method, "parameters": parameters, **content}))
    return read_sweep(path)


def run(folder, count=None, parallel=1, retry=False, **content):
    sweep = sweep_of(folder, **content)
    with Journal(folder / "sweep", sweep.definition) as journal:
        runner = Runner(sweep, journal, parallel=parallel, poll=0.01)
        runner.run(count, retry=retry)
        return runner


def starts(trial):
    return (trial.folder / "starts").read_text().count("started")


@pytest.mark.parametrize("parallel", [1, 3])
def test_a_grid_is_run_once_and_never_again(tmp_path, parallel):
    runner = run(tmp_path, parallel=parallel)
    assert [trial.parameters["lr"] for trial in runner.trials] == [3.0, 1.0, 2.0]
    assert [trial.state for trial in runner.trials] == ["finished"] * 3
    assert [trial.value(runner.sweep.metric) for trial in runner.trials] == [3.0, 1.0, 2.0]
    again = run(tmp_path, parallel=parallel)
    assert [starts(trial) for trial in again.trials] == [1, 1, 1]


def test_a_larger_count_adds_trials(tmp_path):
    parameters = {"lr": {"min": 0.0, "max": 1.0}}
    few = run(tmp_path, 2, method="random", parameters=parameters)
    more = run(tmp_path, 4, method="random", parameters=parameters)
    assert [trial.parameters for trial in more.trials[:2]] == [trial.parameters for trial in few.trials]
    assert len({trial.parameters["lr"] for trial in more.trials}) == 4
    assert len(run(tmp_path, 3, method="random", parameters=parameters).trials) == 4


def test_the_files_cap_ends_a_sweep(tmp_path):
    assert len(run(tmp_path, 9, method="random", parameters={"lr": {"min": 0.0, "max": 1.0}}, run_cap=2).trials) == 2


def test_runs_at_once_are_processes_at_once(tmp_path):
    # Each of them waits until all three have started.
    runner = run(tmp_path, parallel=3, parameters={**GRID, "meets": {"value": 3}})
    assert [trial.state for trial in runner.trials] == ["finished"] * 3


def test_a_run_that_falls_behind_is_stopped(tmp_path):
    # The last would never end by itself.
    parameters = {"lr": {"values": [1.0, 2.0, 50.0]}, "epochs": {"value": 6}, "waits_above": {"value": 10}}
    rule = {"type": "hyperband", "min_iter": 2, "eta": 2}
    # The threshold is the second best of three runs at the bracket, and the worse of two.
    runner = run(tmp_path, parameters=parameters, early_terminate=rule)
    assert [trial.state for trial in runner.trials] == ["finished", "finished", "stopped"]
    # Not before the bracket; it may have reported more by then.
    assert 2 <= len(runner.trials[2].history("val/loss")) <= 6
    assert [starts(trial) for trial in run(tmp_path, parameters=parameters, early_terminate=rule).trials] == [1, 1, 1]


def test_a_sweep_ends_at_its_target(tmp_path):
    metric = {"name": "val/loss", "goal": "minimize", "target": 1.5}
    runner = run(tmp_path, metric=metric, parameters={"lr": {"values": [3.0, 1.0, 2.0]}})
    assert [trial.parameters["lr"] for trial in runner.trials] == [3.0, 1.0]


def test_a_failed_run_is_told_and_run_again_only_on_request(tmp_path):
    parameters = {"lr": {"values": [1.0]}, "fails": {"values": [False, True]}}
    runner = run(tmp_path, parameters=parameters)
    assert [trial.state for trial in runner.trials] == ["finished", "failed"]
    assert runner.trials[1].message == "it can't be done (exit code 1)"
    assert [starts(trial) for trial in run(tmp_path, parameters=parameters).trials] == [1, 1]
    again = run(tmp_path, parameters=parameters, retry=True)
    assert [trial.state for trial in again.trials] == ["finished", "failed"]
    # What a failed run left is taken away first.
    assert [starts(trial) for trial in again.trials] == [1, 1]
    journal = (tmp_path / "sweep" / "trials.jsonl").read_text()
    assert journal.count('"failed"') == 2 and journal.count('"finished"') == 1


def test_a_fault_of_all_runs_ends_the_sweep(tmp_path):
    with pytest.raises(AllFailedError, match="the first 3 trials failed, the last: it can't be done"):
        run(tmp_path, parameters={"lr": {"values": [1.0, 2.0, 3.0, 4.0, 5.0]}, "fails": {"value": True}})


def test_a_metric_that_no_run_reports_ends_the_sweep(tmp_path):
    with pytest.raises(ConfigError, match="trial 0 ended, and it reported no val/los, but epoch, finished, val/loss"):
        run(tmp_path, metric={"name": "val/los"})


def test_a_folder_holds_one_sweep(tmp_path):
    run(tmp_path)
    with pytest.raises(ConfigError, match="it holds a sweep of another file, other overrides or another seed"):
        run(tmp_path, parameters={"lr": {"values": [1.0]}})


def test_a_folder_is_a_sweeps_from_its_first_trial_on(tmp_path):
    with Journal(tmp_path, {"seed": 0}):
        pass
    with Journal(tmp_path, {"seed": 1}) as journal:
        journal.begin(0, {}, {})
    with pytest.raises(ConfigError, match="it holds a sweep of another file, other overrides or another seed"):
        Journal(tmp_path, {"seed": 0})


def test_two_processes_do_not_run_one_sweep(tmp_path):
    sweep = sweep_of(tmp_path)
    with (
        Journal(tmp_path / "sweep", sweep.definition),
        pytest.raises(ConfigError, match="this sweep is running in another process"),
    ):
        Journal(tmp_path / "sweep", sweep.definition, patience=0.1)


def test_a_line_that_was_being_written_is_left_out(tmp_path):
    run(tmp_path)
    path = tmp_path / "sweep" / "trials.jsonl"
    with path.open("a") as stream:
        stream.write('{"trial": 3, "ev')
    assert [trial.state for trial in run(tmp_path).trials] == ["finished"] * 3
    assert all(json.loads(line) for line in path.read_text().split("\n")[:-1])


def waiting(folder):
    """Four trials, of which the last two don't end before there is a file called go."""
    return {
        "lr": {"values": [2.0, 1.0, 4.0, 3.0]},
        "seconds": {"value": 0.15},
        "waits_above": {"value": 2.5},
        "waits_for": {"value": str(folder / "go")},
    }


def _begin(folder):
    # What the process prints is not the test's.
    with Path(os.devnull).open("w") as stream, contextlib.redirect_stdout(stream):
        try:
            run(folder, parallel=2, parameters=waiting(folder))
        except KeyboardInterrupt:
            os._exit(130)


def _interrupted(folder, number):
    """A sweep that got a signal while its third and fourth trials ran."""
    process = multiprocessing.get_context("fork").Process(target=_begin, args=(folder,))
    process.start()
    third = folder / "sweep" / "trials" / "0002" / "starts"
    while not third.is_file():
        assert process.is_alive()
        time.sleep(0.01)
    os.kill(process.pid, number)
    process.join(120)
    return process.exitcode


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_what_ended_is_kept_and_what_ran_is_run_again_after_an_interruption(tmp_path, number, code):
    assert _interrupted(tmp_path, number) == code
    lines = [json.loads(line) for line in (tmp_path / "sweep" / "trials.jsonl").read_text().splitlines()]
    ended = {line["trial"] for line in lines if line["event"] == "finished"}
    begun = {line["trial"] for line in lines if line["event"] == "begun"}
    assert ended < begun
    inodes = {number: (tmp_path / "sweep" / "trials" / f"{number:04d}").stat().st_ino for number in ended}
    (tmp_path / "go").touch()
    runner = run(tmp_path, parallel=2, parameters=waiting(tmp_path))
    assert [trial.state for trial in runner.trials] == ["finished"] * 4
    # A trial that had ended has its folder still; each folder saw one start, since an interrupted one is begun anew.
    assert {number: runner.trials[number].folder.stat().st_ino for number in ended} == inodes
    assert [starts(trial) for trial in runner.trials] == [1] * 4
    assert [len(trial.history("val/loss")) for trial in runner.trials] == [2] * 4


def test_runs_end_with_the_process_that_started_them(tmp_path):
    assert _interrupted(tmp_path, signal.SIGKILL) == -signal.SIGKILL
    time.sleep(0.1)
    reported = {path: path.read_text() for path in tmp_path.glob("sweep/trials/*/metrics.jsonl")}
    time.sleep(0.5)
    assert {path: path.read_text() for path in tmp_path.glob("sweep/trials/*/metrics.jsonl")} == reported


def test_a_run_that_ended_while_nobody_looked_is_not_run_again(tmp_path):
    run(tmp_path)
    path = tmp_path / "sweep" / "trials.jsonl"
    lines = path.read_text().splitlines()
    # As if the sweep had been killed after its last run ended, and before it noted so.
    path.write_text("".join(f"{line}\n" for line in lines[:-1]))
    runner = run(tmp_path)
    assert [trial.state for trial in runner.trials] == ["finished"] * 3
    assert [starts(trial) for trial in runner.trials] == [1, 1, 1]


def test_a_recipes_run_goes_on_from_its_checkpoint(tmp_path):
    sweep = sweep_of(
        tmp_path,
        program="recipes/train.py",
        command=["${env}", "${interpreter}", "${program}", "data=digits", "${args_no_hyphens}"],
        parameters={"seed": {"values": [1]}},
    )
    with Journal(tmp_path / "sweep", sweep.definition) as journal:
        runner = Runner(sweep, journal, overrides=["trainer.max_epochs=2"])
        trial = journal.begin(0, {"seed": 1}, {})
        assert runner.command(trial)[-4:] == [
            "data=digits",
            "seed=1",
            "trainer.max_epochs=2",
            f"hydra.run.dir='{trial.folder}'",
        ]
        assert not runner._resumable(trial)
        for file in (".hydra/overrides.yaml", "checkpoints/student/last.ckpt"):
            (trial.folder / file).parent.mkdir(parents=True, exist_ok=True)
            (trial.folder / file).touch()
        assert runner._resumable(trial)
        assert runner.command(trial, resume=True)[1:] == [
            sys.executable,
            "recipes/train.py",
            f"resume='{trial.folder}'",
        ]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"allowed_targets": "[os]"}, r"trials\.jsonl: trial 0 has allowed_targets='\[os\]', which .* does not allow"),
        ({"lr": "1.0 allowed_targets=[os]"}, r"trial 0 has lr='1\.0 allowed_targets"),
        ({"lr": 7.0}, r"trial 0 has lr=7\.0"),
        ({"--experimental-rerun": "config.pickle"}, r"trial 0 has --experimental-rerun='config\.pickle'"),
        ({"lr": None}, r"trial 0 has lr=None"),
    ],
)
def test_what_a_folder_says_of_trials_does_not_reach_a_command_line(tmp_path, parameters, message):
    sweep = sweep_of(tmp_path)
    with Journal(tmp_path / "sweep", sweep.definition):
        pass
    assert not (tmp_path / "sweep").exists()
    (tmp_path / "sweep").mkdir()
    line = {"trial": 0, "event": "begun", "shares": {}, "parameters": parameters}
    (tmp_path / "sweep" / "trials.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(ConfigError, match=message), Journal(tmp_path / "sweep", sweep.definition) as journal:
        Runner(sweep, journal)
    assert [path.name for path in (tmp_path / "sweep").iterdir()] == ["trials.jsonl"]


BEGUN = {"trial": 0, "event": "begun", "shares": {}, "parameters": {}}
ENDED = {"trial": 0, "event": "finished", "seconds": 1.0, "message": ""}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([{"trial": 0, "event": "begun", "shares": {}}], r"line 1, can't be read \(KeyError: 'parameters'\)"),
        ([{**BEGUN, "parameters": None}], r"line 1, .*parameters is a NoneType, and a dict was expected"),
        ([{**BEGUN, "parameters": [1]}], r"line 1, .*parameters is a list, and a dict was expected"),
        ([{**BEGUN, "shares": {"lr": "x"}}], r"line 1, .*shares are no numbers"),
        ([{**BEGUN, "trial": "0"}], r"line 1, .*trial is a str, and a int was expected"),
        ([{**BEGUN, "trial": 7}], r"line 1, .*trial 7 can't follow 0 others"),
        ([[1]], r"line 1, .*it is a list, and a table was expected"),
        ([ENDED], r"line 1, .*KeyError: 0"),
        ([BEGUN, {**ENDED, "event": "won"}], r"line 2, .*event is 'won', and one of begun, finished, stopped, failed"),
        ([BEGUN, {**ENDED, "seconds": "x"}], r"line 2, .*seconds is a str, and a float was expected"),
        ([BEGUN, {**ENDED, "seconds": float("nan")}], r"line 2, .*seconds is nan"),
        ([BEGUN, {**ENDED, "message": 1}], r"line 2, .*message is a int, and a str was expected"),
        (b"\xff\n", r"line 1, can't be read \(UnicodeDecodeError"),
        (b"[" * 100_000 + b"\n", r"line 1, can't be read \(RecursionError"),
    ],
)
def test_a_journal_of_another_form_is_refused_with_its_line_and_nothing_left(tmp_path, lines, message):
    folder = tmp_path / "sweep"
    folder.mkdir()
    content = lines if isinstance(lines, bytes) else "".join(f"{json.dumps(line)}\n" for line in lines).encode()
    (folder / "trials.jsonl").write_bytes(content)
    with pytest.raises(ConfigError, match=rf"trials\.jsonl, {message}.*give a new folder=") as found:
        Journal(folder, {})
    assert "\n" not in str(found.value)
    assert [path.name for path in folder.iterdir()] == ["trials.jsonl"]


def test_a_sweep_whose_notes_are_damaged_is_refused_in_a_sentence(tmp_path):
    sweep = sweep_of(tmp_path)
    with Journal(tmp_path / "sweep", sweep.definition):
        pass
    assert not (tmp_path / "sweep").exists()
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "sweep.json").write_text("{")
    with pytest.raises(ConfigError, match=r"sweep\.json can't be read \(JSONDecodeError: .*give a new folder="):
        Journal(tmp_path / "sweep", sweep.definition)
