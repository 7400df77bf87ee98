import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
from lightning.pytorch.strategies.launchers import subprocess_script

from lightning_losses.catalogue import command_line as cli
from lightning_losses.catalogue.losses import catalogue
from lightning_losses.losses import loss_classes

SHORT = ["data=digits", "model.width=4", "teacher.width=8", "trainer.limit_train_batches=3"]


def _start(*arguments, folder, **options):
    # Pytest may run where Ctrl-C is ignored, as background jobs do; a child would inherit that.
    return subprocess.Popen(
        [sys.executable, "-m", "lightning_losses.catalogue.command_line", *arguments],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "LIGHTNING_LOSSES_CACHE": str(folder / "cache")},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        **options,
    )


def _finish(process):
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """The same within this process, which has loaded everything: the exit code, and what was printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIGHTNING_LOSSES_CACHE", str(tmp_path / "cache"))

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["lightning-losses", *arguments])
        code = 0
        with warnings.catch_warnings():
            # Networks of three steps know nothing: their best temperature may lie at the range's end.
            warnings.filterwarnings("ignore", message="TemperatureScaling: the best temperature lies outside")
            try:
                cli.main()
            except SystemExit as exit:
                code = exit.code
        return code, *capsys.readouterr()

    return run


def test_list_names_every_loss(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lightning-losses", "list"])
    cli.main()
    shown = capsys.readouterr().out
    for loss in loss_classes():
        assert loss.identifier() in shown and loss.__name__ in shown
    monkeypatch.setattr(sys, "argv", ["lightning-losses", "list", "--json"])
    cli.main()
    entries = {entry["id"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert entries["sinkd"]["batch_coupled"] and not entries["kd"]["batch_coupled"]
    assert entries["nkd"]["inputs"] == {"logits": True, "teacher_logits": True, "target": True}
    assert "ce" in entries["cross_entropy"]["configs"] and entries["kd"]["configs"] == ["kd"]


def test_the_catalogue_has_one_line_a_loss_and_a_sentence_in_each():
    entries = catalogue()
    assert [entry.name for entry in entries] == [loss.__name__ for loss in loss_classes()]
    assert len({entry.id for entry in entries}) == len(entries)
    assert all(len(entry.summary) > 20 for entry in entries)


@pytest.mark.parametrize("arguments", [[], ["foo"], ["list", "foo"]])
def test_an_unknown_command_is_a_message(monkeypatch, capsys, arguments):
    monkeypatch.setattr(sys, "argv", ["lightning-losses", *arguments])
    with pytest.raises(SystemExit) as exit:
        cli.main()
    assert exit.value.code == 2 and "usage: lightning-losses" in capsys.readouterr().err


def test_who_reads_the_beginning_alone_gets_no_message(monkeypatch, capsys):
    reading, writing = os.pipe()
    os.close(reading)
    monkeypatch.setattr(sys, "argv", ["lightning-losses", "choose"])
    with open(writing, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        with pytest.raises(SystemExit, match="1"):
            cli.main()
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has it")
def test_an_output_without_room_is_a_message(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lightning-losses", "choose"])
    with suppress(OSError), open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(SystemExit, match="2"):
            cli.main()
    assert capsys.readouterr().err == "Error: the output can't be written: No space left on device.\n"


def test_a_list_of_nothing_is_a_message(monkeypatch, capsys):
    words = ["list", "--family", "classification", "--needs", "teacher_logits"]
    monkeypatch.setattr(sys, "argv", ["lightning-losses", *words])
    with pytest.raises(SystemExit) as exit:
        cli.main()
    assert exit.value.code == 2 and "none of that family needs it" in capsys.readouterr().err


# In one process, which has loaded nothing: what each command line says, and which of the slow packages it needed.
AT_ONCE = """
import contextlib, io, json, runpy, sys
from lightning_losses.catalogue import command_line

said = []
for words in json.loads(sys.argv[1]):
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            if words[0].endswith(".py"):
                sys.argv = words
                runpy.run_path(words[0], run_name="__main__")
            else:
                sys.argv = ["lightning-losses", *words]
                command_line.main()
        except SystemExit as exit:
            code = exit.code or 0
    loaded = [name for name in ("torch", "lightning") if name in sys.modules]
    said.append([code, out.getvalue(), err.getvalue(), loaded])
print(json.dumps(said))
"""


def test_what_there_is_is_said_without_torch_or_lightning():
    recipes = Path(__file__).parents[2] / "recipes"
    expected = {
        ("--help",): (0, "train, calibrate, evaluate, report"),
        ("--version",): (0, "lightning_losses 0."),
        (f"{recipes}/train.py", "--help", "objective=dkd", "seed=3"): (0, "\nseed: 3\n"),
        (f"{recipes}/train.py", "--version"): (0, "lightning_losses 0."),
        (f"{recipes}/sweep.py", "--version"): (0, "lightning_losses 0."),
        (f"{recipes}/results.py", "--help"): (0, "--stale"),
        ("train", "--cfg", "job", "--optimizer.lr=0.25", "-p", "optimizer"): (0, "lr: 0.25"),
        ("train", "data=digits", "--cfg", "job", "seed=7"): (0, "\nseed: 7\n"),
        ("compare", "--help"): (0, "comparison=bed_a, "),
        ("calibrate", "--help"): (0, "bayesian_binning, beta"),
        ("sweep", "--help"): (0, "count=N"),
        ("train", "--optimizer.lr", "0.1"): (2, "--optimizer.lr: there is no such option; --hydra-help lists them. A "
                                                "setting has no hyphens: optimizer.lr=VALUE.\n"),
        ("train", "--cfg"): (2, "Error: --cfg/-c: expected one argument.\n"),
        ("train", "objective=nkdd"): (2, "objective=nkdd: there is no objective 'nkdd'; did you mean nkd?"),
        ("list", "--family", "confidence"): (0, "mbls"),
    }  # fmt: skip
    done = subprocess.run([sys.executable, "-c", AT_ONCE, json.dumps(list(expected))], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for (words, (code, text)), (came, out, err, loaded) in zip(expected.items(), json.loads(done.stdout), strict=True):
        assert came == code and text in (err if code else out), (words, out, err)
        assert "usage:" not in err and loaded == (["torch"] if words[0] == "list" else []), words
        if words[1:] == ("--help",) and words[0] in ("compare", "calibrate", "sweep"):
            assert f"\n    lightning-losses {words[0]} " in out and "python recipes/" not in out
        if words[0] == "calibrate":
            assert "objective=" not in out and "logits: null" in out


@pytest.mark.slow
def test_a_sweep_whose_second_job_is_wrong_ends_before_the_first_in_one_message(run, tmp_path):
    code, out, err = run("train", "-m", *SHORT, "objective.terms.nkd.loss.temperature=1,0")
    assert code == 2
    assert err.startswith("Error: ") and "nkd.loss.temperature=0: give a number above 0" in err
    assert "Traceback" not in out + err and not (tmp_path / "outputs").exists()


@pytest.mark.slow
def test_a_sweep_trains_the_teacher_once(run, tmp_path):
    code, out, err = run("train", "-m", *SHORT, "trainer.max_epochs=1", "objective=kd,nkd")
    assert code == 0, err
    assert out.count("The report is in") == 2
    assert out.count("teacher (ce): trained before") == out.count("baseline (ce): trained before") == 1
    assert len(list((tmp_path / "outputs" / "sweeps").rglob("report.json"))) == 2


@pytest.mark.slow
def test_ctrl_c_leaves_a_checkpoint_and_the_command_that_continues(run, tmp_path):
    process = _start(
        "train",
        "data=digits",
        "model.width=4",
        "modules.baseline=null",
        "trainer.max_epochs=20",
        "trainer.limit_train_batches=5",
        "hydra.run.dir=run",
        "modules.teacher=null",
        "objective=ce",
        folder=tmp_path,
    )
    last = tmp_path / "run" / "checkpoints" / "student" / "last.ckpt"
    while not last.is_file() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    code, _, err = _finish(process)
    assert code == 130, err
    assert "resume=run" in err and "Traceback" not in err
    code, _, err = run("train", "resume=run")
    assert code == 0, err
    history = json.loads((tmp_path / "run" / "report" / "report.json").read_text())["networks"][0]["history"]
    assert len(history["val/loss"]) == 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resume=nowhere"], "resume=nowhere: there is no run in that folder"),
        (["-m", "resume=run"], "one run is resumed at a time"),
    ],
)
def test_what_can_not_be_resumed_is_a_message(monkeypatch, tmp_path, capsys, arguments, message):
    (tmp_path / "run" / ".hydra").mkdir(parents=True)
    (tmp_path / "run" / ".hydra" / "overrides.yaml").write_text("[]")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lightning-losses", "train", *arguments])
    with pytest.raises(SystemExit) as exit:
        cli.main()
    assert exit.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize(("as_module", "trainer"), [(False, "ddp"), (True, "fsdp")], ids=["script", "module"])
def test_a_further_process_is_started_by_what_started_the_first(monkeypatch, tmp_path, as_module, trainer):
    started = []

    def popen(command, **options):
        started.append((command, options["cwd"]))
        raise SystemExit

    script = Path(sys.executable).with_name("lightning-losses")
    words = ["train", f"trainer={trainer}", "trainer.accelerator=cpu", "trainer.devices=2", "experiment=classify"]
    words += ["data=digits", "model.width=4", "modules.baseline=null", "logger=none"]
    module = importlib.util.find_spec("lightning_losses.__main__")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(subprocess_script, "subprocess", SimpleNamespace(Popen=popen))
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", module if as_module else None)
    monkeypatch.setattr(sys, "argv", [module.origin if as_module else str(script), *words])
    with mock.patch.dict(os.environ), pytest.raises(SystemExit):
        cli.main()
    ((command, folder),) = started
    (run,) = (tmp_path / "outputs").glob("*/*")
    how = ["-m", "lightning_losses.__main__"] if as_module else [str(script)]
    assert script.is_file() and command[: len(words) + len(how) + 1] == [sys.executable, *how, *words]
    assert f'hydra.run.dir="{run.relative_to(tmp_path)}"' in command and folder == str(tmp_path)


def test_calibrate_writes_a_calibrator_and_a_wrong_name_is_a_message(run, tmp_path):
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(200, 3))
    np.savez(tmp_path / "logits.npz", logits=3 * logits, target=(logits + generator.gumbel(size=(200, 3))).argmax(1))
    code, out, err = run("calibrate", "logits=logits.npz", "resamples=5", "hydra.run.dir=run")
    assert code == 0, err
    assert "The calibrator, the table and the pictures are in" in out
    assert (tmp_path / "run" / "calibrator.safetensors").is_file()
    assert "`lightning-losses calibrate logits=logits.npz" in (tmp_path / "run" / "calibration.md").read_text()
    code, out, err = run("calibrate", "logits=logits.npz", "calibrator=temprature")
    assert code == 2 and "did you mean temperature?" in err and "Traceback" not in out + err


@pytest.mark.slow
def test_wandb_gets_settings_metrics_table_and_pictures_offline(run, tmp_path):
    code, _, err = run("train", *SHORT, "trainer.max_epochs=1", "logger=wandb", "hydra.run.dir=run")
    assert code == 0, err
    (folder,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    media = [path.name for path in (folder / "files" / "media").rglob("*.*")]
    for name in ("validation", "losses", "reliability_student"):
        assert any(file.startswith(name) and file.endswith(".png") for file in media)
    assert any(file.endswith(".table.json") for file in media)
