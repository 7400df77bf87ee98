"""Which experiment a configuration names, and what a command line may start."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf
from torch.multiprocessing.spawn import ProcessExitedException

from lightning_losses.catalogue.configurations import configurations
from lightning_losses.experiments import launch as launching
from lightning_losses.experiments.config.instantiate import ConfigError
from lightning_losses.experiments.kinds.calibration import LogitCalibration
from lightning_losses.experiments.launch import Experiment, _resumed, experiment_of, launch

ROOT = Path(__file__).parents[2]
NAMED = {
    **{name: content for name, content in configurations().items() if name.startswith("experiment=")},
    **{name: OmegaConf.load(ROOT / "conf" / f"{name}.yaml") for name in ("train", "compare", "calibrate")},
}


@pytest.mark.parametrize("name", [name for name, content in NAMED.items() if "experiment" in content])
def test_a_configuration_names_an_experiment(name):
    assert isinstance(experiment_of(OmegaConf.create({"experiment": NAMED[name].experiment})), Experiment)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"_target_": "torch.nn.Linear"}, "experiment._target_=torch.nn.Linear: it is no experiment; give a class"),
        ({"_target_": "lightning_losses.experiments.kinds.classification.StudentExperiment"}, "it is no experiment"),
        ({"_target_": "lightning_losses.experiments.launch.launch"}, "a configuration may not build this"),
        ({"_target_": "lightning_losses.experiments.training.training.Training"}, "a configuration may not build this"),
        (None, "experiment._target_=None: give the dotted name of a class or a function"),
    ],
)  # fmt: skip
def test_what_is_no_experiment_is_refused(named, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        experiment_of(OmegaConf.create({"experiment": named}))


def test_its_command_starts_it_again():
    experiment = LogitCalibration(OmegaConf.create(), "calibrate.py", ["logits=my file.npz", "resume=run", "seed=1"])
    assert experiment.command == "calibrate.py 'logits=my file.npz' seed=1"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["experiment=calibration_overlap"], "python recipes/compare.py comparison=calibration_overlap makes it."),
        (["--experimental-rerun", "config.pickle"], "the file would be unpickled"),
        (["--config-path", "conf"], "--config-dir adds a folder of yours"),
        (["experiment=classify", "data=digits", "cache=/proc/x"], "cache=/proc/x: /proc can't be written: No such"),
        (["experiment=classify", "data=digits", "hydra.run.dir=/proc/x"], "hydra.run.dir=/proc/x: /proc can't be wr"),
    ],
)
def test_what_is_not_started_is_one_sentence(words, message, capsys):
    with pytest.raises(SystemExit) as exit:
        launch("train", words)
    assert exit.value.code == 2
    # Beside what Lightning says where another test has its logger write.
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Error: ")]
    assert message in line


def test_a_process_started_by_the_words_of_a_resumed_run_reads_each_once(tmp_path):
    folder = tmp_path / "a run: x=1,\nseed={2}"
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text("[data=digits, seed=1, resume=before]")
    arguments = _resumed(["data=digits", f"resume={folder}", "seed=2"])
    assert arguments == ["data=digits", "seed=1", "seed=2", f"resume='{folder}'", f"hydra.run.dir='{folder}'"]


@pytest.mark.parametrize("word", ["hydra.run.dir=elsewhere", "++hydra.run.dir=elsewhere", "output=elsewhere"])
def test_a_resumed_run_takes_no_other_folder(tmp_path, word):
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "overrides.yaml").write_text("[seed=1]")
    with pytest.raises(ConfigError) as raised:
        _resumed([word, f"resume={tmp_path}"])
    key = word.lstrip("+").partition("=")[0]
    assert str(raised.value) == (
        f"{word}: resume={tmp_path} came too, and a run goes on in its folder; leave {key} out."
    )
    # The folder itself, as a process is told that another one starts.
    assert _resumed([f"resume={tmp_path}", f"hydra.run.dir='{tmp_path}'"])[-1] == f"hydra.run.dir='{tmp_path}'"


def test_the_arguments_of_the_process_are_never_rewritten():
    rewriting = re.compile(r"sys\.argv(\[[^]]*\])?\s*=[^=]")
    assert rewriting.search("sys.argv[1:] = words")
    for folder in ("lightning_losses", "recipes"):
        for file in (ROOT / folder).rglob("*.py"):
            assert not rewriting.search(file.read_text()), file


def test_what_an_override_refers_to_is_no_part_of_the_command(tmp_path, monkeypatch):
    given = []
    hydra = {
        "runtime": {"output_dir": str(tmp_path)},
        "overrides": {"task": ["title='${model}'"]},
        "model": {"_target_": "torch.nn.Linear"},
    }

    def experiment_of(config, program, overrides):
        given.extend(overrides)
        return SimpleNamespace(run=lambda folder: None, no_sweep="it returns no number")

    monkeypatch.setattr(launching, "experiment_of", experiment_of)
    monkeypatch.setattr(launching.HydraConfig, "get", lambda: OmegaConf.create(hydra))
    launching._guarded("train")(OmegaConf.create({"debug": False}))
    assert given == ["title='${model}'"]


def test_a_process_that_was_killed_is_told_with_the_command_that_goes_on(tmp_path, monkeypatch, capsys):
    def run(folder):
        raise ProcessExitedException("process 1 terminated with signal SIGKILL", 1, 1, -9, "SIGKILL")

    hydra = {"runtime": {"output_dir": str(tmp_path)}, "overrides": {"task": []}}
    stub = SimpleNamespace(run=run, no_sweep="it returns no number")
    monkeypatch.setattr(launching, "experiment_of", lambda *_: stub)
    monkeypatch.setattr(launching.HydraConfig, "get", lambda: OmegaConf.create(hydra))
    with pytest.raises(SystemExit):
        launching._guarded("train")(OmegaConf.create({"debug": False}))
    assert capsys.readouterr().err == (
        "Error: process 1 terminated with signal SIGKILL; if it was for want of memory, give a smaller "
        f"data.batch_size, or fewer trainer.devices.\nWhen that is mended, continue this run by\n  train "
        f"resume={tmp_path}\n"
    )
