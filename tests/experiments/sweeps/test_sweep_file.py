import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import load_sweep_config

from lightning_losses.experiments.config.check_config import ConfigError
from lightning_losses.experiments.sweeps.sweep_file import check_runs, read_sweep

ROOT = Path(__file__).parents[3]
FILES = sorted((ROOT / "conf" / "sweep").glob("*.yaml"))
DATA = Path(__file__).parent / "data"
SCHEMA = jsonschema.Draft7Validator(json.loads((DATA / "wandb_sweep_schema.json").read_text()))
GOLDEN = json.loads((DATA / "wandb_sweeps.json").read_text())
SWEEP = {
    "method": "random",
    "program": "recipes/train.py",
    "metric": {"name": "val/loss"},
    "parameters": {"optimizer.lr": {"min": 0.001, "max": 0.1}},
    "command": ["${env}", "${interpreter}", "${program}", "data=digits", "${args_no_hyphens}"],
}


def written(folder, **changes):
    content = {key: value for key, value in {**SWEEP, **changes}.items() if value is not ...}
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


# W&B's reader leaves the file open.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <_io.FileIO:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_sweeps_that_come_along_are_valid_for_wandb_and_for_us(path):
    assert list(SCHEMA.iter_errors(yaml.safe_load(path.read_text()))) == []
    sweep = read_sweep(path)
    # Read by W&B's own reader, it is what we read.
    assert load_sweep_config(str(path)) == sweep.definition
    assert sweep.hydra and sweep.script() is not None and Path(sweep.script()).is_file()


def test_they_have_every_method_a_choice_and_early_termination():
    sweeps = [read_sweep(path) for path in FILES]
    assert {sweep.method for sweep in sweeps} == {"grid", "random", "bayes"}
    assert {"bayes"} <= {sweep.method for sweep in sweeps if sweep.hyperband}
    assert any("objective_name" in sweep.parameters for sweep in sweeps)


@pytest.mark.parametrize("name", ["distill", "calibration", "grokking"])
def test_their_parameters_are_in_the_configuration(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    sweep = read_sweep(ROOT / "conf" / "sweep" / f"{name}.yaml")
    if "objective_name" in sweep.parameters:
        # Two of the choices stand for all: a composition takes a third of a second.
        del sweep.parameters["objective_name"].options["values"][2:]
    check_runs(sweep, [])


def test_an_objectives_name_goes_with_hyperparameters_that_it_has():
    for path in FILES:
        parameters = read_sweep(path).parameters
        named = {name.split(".")[1] for name in parameters if name.startswith("objectives.")}
        if "objective_name" in parameters:
            assert named <= set(parameters["objective_name"].options["values"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methd": "grid"}, "there is no 'methd' in a sweep; did you mean method?"),
        ({"method": "bayesian"}, "method: 'bayesian' came; did you mean bayes?"),
        ({"method": ...}, "method: None came"),
        ({"method": "custom"}, "custom is for W&B's schedulers"),
        ({"controller": {"type": "local"}}, "controller: it says where W&B's controller runs; without a server leave"),
        ({"parameters": {}}, "give at least one parameter"),
        ({"parameters": {"+lr": {"value": 1}}}, "W&B takes letters, digits"),
        ({"parameters": {"lr": 0.1}}, r"parameters.lr: 0.1 came; give a mapping, such as \{value: 0.1\}"),
        ({"parameters": {"optimizer": {"parameters": {"lr": {"min": 2, "max": 1}}}}}, "optimizer.lr: min=2 is not"),
        (
            {"parameters": {"a": {"parameters": {"b": {"value": 1}}}, "a.b": {"value": 2}}},
            "it occurs twice, nested and by its dotted name",
        ),
        ({"metric": {"goal": "minimize"}}, "metric: .* came; give name"),
        ({"metric": {"name": "val/loss", "goal": "min"}}, "goal='min' came"),
        ({"metric": {"name": "val/loss", "impute_while_running": "latest"}}, "leave it out"),
        ({"method": "bayes", "metric": ...}, "metric: bayes needs one"),
        ({"early_terminate": {"type": "hyperband", "min_iter": 3}, "metric": ...}, "early_terminate needs one"),
        ({"early_terminate": {"type": "hyperband"}}, "give min_iter, or max_iter and s"),
        ({"run_cap": 0}, "run_cap: 0 came"),
        ({"method": "grid"}, "method grid takes no uniform"),
        ({"command": ["${args_no_hyphn}"]}, "did you mean args_no_hyphens?"),
        ({"program": ...}, "program: there is none"),
    ],
)
def test_what_is_no_sweep_is_one_sentence_with_the_file(tmp_path, changes, message):
    path = written(tmp_path, **changes)
    with pytest.raises(ConfigError, match=message) as found:
        read_sweep(path)
    assert str(found.value).startswith(str(path)) and "\n" not in str(found.value)


def test_what_is_no_yaml_is_one_sentence_with_the_line(tmp_path):
    (tmp_path / "sweep.yaml").write_text("method: grid\nparameters: [")
    with pytest.raises(ConfigError, match="line 2 is no YAML"):
        read_sweep(tmp_path / "sweep.yaml")
    with pytest.raises(ConfigError, match="there is no such file"):
        read_sweep(tmp_path / "other.yaml")
    (tmp_path / "sweep.yaml").write_bytes(b"method: grid\nname: \xff\n")
    with pytest.raises(ConfigError, match="line 2 is no UTF-8 text; save the file as UTF-8"):
        read_sweep(tmp_path / "sweep.yaml")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parameters": {"optimizer.rate": {"value": 1}}}, "there is no 'rate' in optimizer; choose one of"),
        ({"parameters": {"objective": {"values": ["nkd", "nkdd"]}}}, "no objective 'nkdd'; did you mean nkd?"),
        ({"parameters": {"data.batch_size": {"min": 1.0, "max": 64.0}}}, "data.batch_size=.*: give an integer"),
        ({"program": "recipes/trian.py"}, "there is no recipes/trian.py, neither here nor beside the file"),
        ({"command": ["${program}", "${args_no_equals}"]}, "put \\${args_no_hyphens} in place"),
    ],
)
def test_what_a_recipe_does_not_have_is_one_sentence(tmp_path, monkeypatch, changes, message):
    monkeypatch.chdir(ROOT)
    with pytest.raises(ConfigError, match=message):
        check_runs(read_sweep(written(tmp_path, **changes)), [])


def test_recipes_take_overrides_with_hyphens_as_wandb_writes_them_where_a_file_says_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    sweep = read_sweep(written(tmp_path, command=["${program}", "data=digits", "${args}"]))
    assert sweep.hydra and any(word.startswith("--") for word in sweep.words({"seed": 1}))
    check_runs(sweep, [])


def test_nested_parameters_reach_a_recipe_as_wandb_hands_them_out(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    nested = {"optimizer": {"parameters": {"lr": {"value": 0.5}, "weight_decay": {"values": [0.1, 0.2]}}}}
    sweep = read_sweep(written(tmp_path, parameters=nested))
    assert sweep.words({"optimizer.lr": 0.5, "optimizer.weight_decay": 0.1})[-1] == (
        "optimizer={'lr': 0.5, 'weight_decay': 0.1}"
    )
    check_runs(sweep, [])
    with pytest.raises(ConfigError, match="there is no 'rate' in optimizer"):
        check_runs(read_sweep(written(tmp_path, parameters={"optimizer": {"parameters": {"rate": {"value": 1}}}})), [])


def test_the_grid_is_that_of_wandb(tmp_path):
    parameters = GOLDEN["grid"]["sweep"]["parameters"]
    found = list(read_sweep(written(tmp_path, method="grid", parameters=parameters)).grid())
    key = [json.dumps(point, sort_keys=True) for point in found]
    assert sorted(key) == sorted(json.dumps(point, sort_keys=True) for point in GOLDEN["grid"]["points"])
    assert len(set(key)) == len(key) == 24


def test_hyperparameters_belong_to_the_objective_that_is_chosen(tmp_path):
    parameters = {
        "objective_name": {"values": ["kd", "nkd", "ce"]},
        "objectives.kd.terms.kd.weight": {"values": [1, 2]},
        "objectives.nkd.terms.nkd.loss.gamma": {"values": [1, 2, 3]},
        "seed": {"values": [0]},
    }
    points = list(read_sweep(written(tmp_path, method="grid", parameters=parameters)).grid())
    # Two of KD, three of NKD, one without hyperparameters; the whole product has eighteen.
    assert len(points) == 2 + 3 + 1
    for point in points:
        own = [name for name in point if name.startswith("objectives.")]
        assert [name.split(".")[1] for name in own] == [point["objective_name"]] * len(own)
