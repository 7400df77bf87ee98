import json

import pytest
import yaml

from lightning_losses.experiments.config.check_config import ConfigError
from lightning_losses.experiments.sweeps import search
from lightning_losses.experiments.sweeps.search import make_search
from lightning_losses.experiments.sweeps.sweep_file import read_sweep
from lightning_losses.experiments.sweeps.trials import Trial

PARAMETERS = {
    "objectives.a.x": {"min": 0.0, "max": 1.0},
    "objective_name": {"values": ["a", "b"]},
    "objectives.b.y": {"distribution": "log_uniform_values", "min": 0.01, "max": 1.0},
    "seed": {"value": 3},
}


def sweep_of(folder, **content):
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump({"command": ["run"], "metric": {"name": "loss"}, **content}))
    return read_sweep(path)


def ended(number, proposal, folder, losses, state="finished"):
    trial = Trial(number, proposal.parameters, folder / str(number), proposal.shares, state=state)
    trial.folder.mkdir()
    lines = [json.dumps({"loss": loss}) for loss in losses]
    (trial.folder / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return trial


def test_a_random_draw_depends_on_the_seed_and_the_number_alone(tmp_path):
    sweep = sweep_of(tmp_path, method="random", parameters=PARAMETERS)
    first, again, other = make_search(sweep, 0), make_search(sweep, 0), make_search(sweep, 1)
    assert [first(n, []) for n in range(5)] == [again(n, []) for n in range(5)]
    assert first(0, []) != first(1, []) and first(0, []) != other(0, [])
    assert {first(n, []).parameters["objective_name"] for n in range(20)} == {"a", "b"}
    for number in range(20):
        drawn = first(number, []).parameters
        assert ("objectives.a.x" in drawn) == (drawn["objective_name"] == "a") and drawn["seed"] == 3


def test_a_grid_ends(tmp_path):
    propose = make_search(sweep_of(tmp_path, method="grid", parameters={"seed": {"min": 0, "max": 2}}), 0)
    assert [propose(number, []).parameters["seed"] for number in range(3)] == [0, 1, 2]
    assert propose(3, []) is None


def test_a_search_that_learns_finds_what_is_better(tmp_path):
    sweep = sweep_of(tmp_path, method="bayes", parameters=PARAMETERS)
    propose = make_search(sweep, 0)
    trials = []
    for number in range(25):
        proposal = propose(number, trials)
        drawn = proposal.parameters
        # The best of all is b with y near 0.1, the middle of its logarithmic range; a costs 3 more.
        loss = 3 + drawn["objectives.a.x"] if drawn["objective_name"] == "a" else abs(drawn["objectives.b.y"] - 0.1)
        trials.append(ended(number, proposal, tmp_path, [loss]))
    late = [trial.parameters["objective_name"] for trial in trials[15:]]
    # By chance, eight or more of ten have a probability of 5%.
    assert late.count("b") >= 8
    assert all(
        "objectives.a.x" not in trial.parameters for trial in trials if trial.parameters["objective_name"] == "b"
    )
    # The same journal gives the same next trial: what an interrupted sweep goes on with.
    assert propose(25, trials) == make_search(sweep, 0)(25, trials)


@pytest.mark.parametrize(("impute", "expected"), [("worst", 5.0), ("best", 1.0), ("latest", 9.0)])
def test_a_failed_trial_counts_as_the_sweep_says(tmp_path, impute, expected):
    sweep = sweep_of(
        tmp_path, method="bayes", parameters={"x": {"min": 0.0, "max": 1.0}}, metric={"name": "loss", "impute": impute}
    )
    propose = make_search(sweep, 0)
    trials = [
        ended(0, propose(0, []), tmp_path, [5.0]),
        ended(1, propose(1, []), tmp_path, [2.0, 1.0, 4.0]),
        ended(2, propose(2, []), tmp_path, [9.0], state="failed"),
    ]
    assert search._value(trials[2], sweep, trials) == expected
    # A run counts by the best that it reported.
    assert search._value(trials[1], sweep, trials) == 1.0


def test_without_optuna_one_sentence_says_what_to_install(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "optuna", None)
    sweep = sweep_of(tmp_path, method="bayes", parameters={"x": {"min": 0.0, "max": 1.0}})
    with pytest.raises(ConfigError, match=r"^method bayes needs Optuna: pip install 'lightning-losses\[sweeps\]'\.$"):
        make_search(sweep, 0)
