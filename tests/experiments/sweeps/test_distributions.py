import json
import random
import statistics
from pathlib import Path

import pytest

from lightning_losses.experiments.config.check_config import ConfigError
from lightning_losses.experiments.sweeps.distributions import read_distribution

# Values of W&B's own sampler; the file names its source.
GOLDEN = json.loads((Path(__file__).parent / "data" / "wandb_sweeps.json").read_text())


@pytest.mark.parametrize("case", GOLDEN["quantiles"], ids=lambda case: json.dumps(case["spec"]))
def test_quantiles_are_those_of_wandb(case):
    distribution = read_distribution("p", case["spec"])
    found = [distribution.quantile(share) for share in GOLDEN["shares"]]
    # Both are computed in float64, with other formulas for the normal quantile: 1e-9 is above the sum of their errors.
    assert found == [
        value if isinstance(value, str) else pytest.approx(value, rel=1e-9, abs=1e-12) for value in case["values"]
    ]
    whole = [isinstance(value, int) for value in case["values"]]
    assert [isinstance(value, int) for value in found] == whole


def test_draws_have_their_distribution():
    generator = random.Random(0)
    draw = read_distribution("p", {"distribution": "log_normal", "mu": 0.5, "sigma": 0.2})
    values = [draw.quantile(generator.random()) for _ in range(4000)]
    # The standard error of the median is 0.4%; 2% is five of them.
    assert statistics.median(values) == pytest.approx(2.718281828**0.5, rel=0.02)
    choice = read_distribution("p", {"values": ["a", "b"], "probabilities": [0.25, 0.75]})
    share = sum(choice.quantile(generator.random()) == "a" for _ in range(4000)) / 4000
    # The standard error is 0.7 points.
    assert share == pytest.approx(0.25, abs=0.035)


def test_a_value_without_probability_is_never_drawn():
    choice = read_distribution("p", {"values": ["a", "b", "c"], "probabilities": [0.0, 1.0, 0.0]})
    assert {choice.quantile(share) for share in (0.0, 0.5, 1 - 1e-16, 1.0)} == {"b"}


def test_a_normal_distribution_is_finite_at_its_ends():
    normal = read_distribution("p", {"distribution": "normal"})
    assert -8 < normal.quantile(0.0) < -6 and 6 < normal.quantile(1.0) < 8


@pytest.mark.parametrize(
    ("spec", "points"),
    [
        ({"value": None}, [None]),
        ({"values": [3, 1]}, [3, 1]),
        ({"min": 2, "max": 4}, [2, 3, 4]),
        ({"distribution": "q_uniform", "min": 0.0, "max": 0.3, "q": 0.1}, [0.0, 0.1, 0.2]),
        ({"distribution": "q_uniform", "min": 0, "max": 5, "q": 2}, [0, 2, 4]),
    ],
)
def test_points_of_a_grid(spec, points):
    assert read_distribution("p", spec).points() == points


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"min": 2, "max": 1}, "min=2 is not below max=1"),
        ({"min": 1.0, "max": 1.0}, "min=1.0 is not below max=1.0"),
        ({"min": 1}, "min came; give value, values, min and max, or distribution"),
        ({"distribution": "unifrom", "min": 0, "max": 1}, "no distribution 'unifrom'; did you mean uniform?"),
        ({"distribution": "beta"}, "no distribution 'beta'"),
        ({"distribution": "uniform", "min": 0}, "uniform needs 'max'"),
        ({"min": 0, "max": 1, "q": 2}, "int_uniform takes no 'q'"),
        ({"distribution": "log_uniform_values", "min": 0, "max": 1}, "takes min above 0, 0 came"),
        ({"distribution": "uniform", "min": "1e-3", "max": 1}, r"min='1e-3' came; uniform takes a number \(YAML needs"),
        ({"distribution": "int_uniform", "min": 0.5, "max": 2}, "min=0.5 came; int_uniform takes a whole number"),
        ({"distribution": "uniform", "min": 0, "max": float("inf")}, "give a finite number"),
        ({"distribution": "normal", "sigma": -1}, "sigma=-1 came; give at least 0"),
        ({"distribution": "q_normal", "q": 0}, "q=0 came; give a number above 0"),
        ({"values": []}, "give a list of at least one"),
        ({"values": 3}, "give a list of at least one"),
        ({"values": [1, 2], "probabilities": [0.5]}, "give as many numbers"),
        ({"values": [1, 2], "probabilities": [0.5, 0.6]}, "that add up to 1"),
        ({"value": 1, "values": [1]}, "constant takes no 'values'"),
    ],
)
def test_what_is_no_distribution_is_one_sentence(spec, message):
    with pytest.raises(ConfigError, match=message) as found:
        read_distribution("lr", spec)
    assert str(found.value).startswith("parameters.lr: ") and "\n" not in str(found.value)
