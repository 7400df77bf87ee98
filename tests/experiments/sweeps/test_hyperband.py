import json
from pathlib import Path

import pytest

from lightning_losses.experiments.config.check_config import ConfigError
from lightning_losses.experiments.sweeps.hyperband import read_hyperband

GOLDEN = json.loads((Path(__file__).parent / "data" / "wandb_sweeps.json").read_text())


@pytest.mark.parametrize("case", GOLDEN["hyperband"], ids=lambda case: f"{case['rule']} {case['goal']}")
def test_the_runs_that_wandb_stops_are_stopped(case):
    rule = read_hyperband(case["rule"])
    sign = 1 if case["goal"] == "minimize" else -1
    histories = [[sign * value for value in history] for history in case["histories"]]
    found = [number for number, history in enumerate(histories) if rule.stops(history, histories)]
    assert found == case["stopped"]


def test_some_golden_runs_are_stopped_and_some_are_not():
    counts = [len(case["stopped"]) for case in GOLDEN["hyperband"]]
    assert max(counts) >= 5 and min(counts) <= 1
    assert any(case["stopped"] and not case["rule"].get("strict", True) for case in GOLDEN["hyperband"])


def test_brackets_from_below_and_from_above():
    assert read_hyperband({"type": "hyperband", "min_iter": 3}).brackets[:3] == (3, 9, 27)
    assert read_hyperband({"type": "hyperband", "max_iter": 27, "s": 2}).brackets == (3, 9)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"type": "median"}, "type='median' came; give hyperband"),
        ({"type": "hyperband"}, "give min_iter, or max_iter and s"),
        ({"type": "hyperband", "max_iter": 9}, "give s, the number of brackets, at least 1"),
        ({"type": "hyperband", "min_iter": 0}, "min_iter=0 came"),
        ({"type": "hyperband", "min_iter": 3, "eta": 1}, "eta=1 came; give a number above 1"),
        ({"type": "hyperband", "min_iter": 3, "strict": 1}, "strict=1 came"),
        ({"type": "hyperband", "min_iters": 3}, "no 'min_iters'; did you mean min_iter?"),
        ({"type": "hyperband", "max_iter": 2, "s": 1}, "leaves no bracket"),
    ],
)
def test_what_is_no_rule_is_one_sentence(spec, message):
    with pytest.raises(ConfigError, match=message):
        read_hyperband(spec)
