"""Comparisons of objectives: a whole small one, what is kept of it, its report and its intervals."""

import csv
import json
import math
import statistics

import pytest
from omegaconf import OmegaConf

from lightning_losses.metrics import calibration_summary
from lightning_losses.recipe import comparison
from lightning_losses.recipe.comparison_report import METRICS, Comparison
from lightning_losses.recipe.seed_interval import seed_interval
from lightning_losses.recipe.training import Training
from lightning_losses.recipes.train import rehearse, train
from tests.recipes.conftest import composed

SMALL = ["data=digits", "trainer.max_epochs=1", "trainer.limit_train_batches=3", "model.width=4"]


def small(cache, *overrides, keep=("ce", "adafocal", "mixup")):
    config = composed("experiment=calibration_compare", *SMALL, "seeds=2", f"cache={cache}", *overrides)
    config.runs = {name: run for name, run in config.runs.items() if name in keep}
    return config


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ["calibration_compare", "calibration_overlap"])
def test_every_run_of_every_experiment_takes_a_step(experiment):
    data = ["data=digits"] if experiment == "calibration_compare" else []
    rehearse(composed(f"experiment={experiment}", *data))


def test_a_comparison_writes_its_report_and_trains_nothing_twice(tmp_path, monkeypatch):
    config = small(tmp_path / "cache")
    found = train(config, tmp_path / "run")
    assert list(found.labels) == ["ce", "adafocal", "mixup"] and found.seeds == (0, 1)
    report = tmp_path / "run" / "report"
    content = json.loads((report / "comparison.json").read_text())
    for name in found.labels:
        for stage in ("before", "after"):
            for metric in METRICS:
                cell = content["runs"][name][stage][metric]
                assert len(cell["values"]) == 2
                assert cell["mean"] == pytest.approx(statistics.fmean(cell["values"]))
    # A temperature keeps the prediction.
    assert found.values("before", "mixup", "accuracy") == found.values("after", "mixup", "accuracy")
    assert all(
        found.values("before", name, "nll") != found.values("before", "ce", "nll") for name in ("adafocal", "mixup")
    )
    lines = list(csv.DictReader((report / "comparison.csv").read_text().splitlines()))
    assert len(lines) == 3 * 2 * len(METRICS)
    assert float(lines[1]["mean"]) == pytest.approx(content["runs"]["ce"]["before"]["nll"]["mean"])
    assert (report / "comparison.md").read_text().count("| cross-entropy |") == 2
    assert (report / "comparison.png").read_bytes().startswith(b"\x89PNG")

    def trained_again(*args, **kwargs):
        raise AssertionError("it was trained again")

    monkeypatch.setattr(Training, "run", trained_again)
    again = train(config, tmp_path / "again")
    assert again.before == found.before and again.after == found.after


def test_an_interrupted_comparison_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch):
    config = small(tmp_path / "cache", keep=("ce", "mixup"))
    run, begun = Training.run, []

    def interrupted(self, *args, **kwargs):
        begun.append(self.name)
        if len(begun) == 3:
            raise KeyboardInterrupt
        return run(self, *args, **kwargs)

    monkeypatch.setattr(Training, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "run")
    config.resume = str(tmp_path / "run")
    resumed = train(config, tmp_path / "run")
    # The third is begun again; the first two are not.
    assert begun == ["ce-0", "mixup-0", "ce-1", "ce-1", "mixup-1"]
    monkeypatch.setattr(Training, "run", run)
    whole = train(small(tmp_path / "other", keep=("ce", "mixup")), tmp_path / "whole")
    assert resumed.before == whole.before


def test_seeds_have_their_own_noise_and_runs_share_it(tmp_path):
    targets = {
        (name, seed): training.datamodule.train.target.tolist()
        for name, seed, training in comparison._trainings(small(tmp_path))
    }
    assert targets["ce", 0] == targets["mixup", 0] != targets["ce", 1]


def test_the_scores_are_the_summary_of_the_test_logits(tmp_path, monkeypatch):
    seen = []
    evaluate = comparison.evaluate
    monkeypatch.setattr(comparison, "evaluate", lambda *args: seen.append(evaluate(*args)) or seen[-1])
    found = train(small(tmp_path / "cache", "seeds=1", keep=("ce",)), tmp_path / "run")
    expected = calibration_summary(seen[0].logits, seen[0].target, inputs="logits")
    assert found.before["ce"][0] == {name: float(expected[name]) for name in METRICS}
    # A single seed has no interval, and JSON no NaN.
    content = json.loads((tmp_path / "run" / "report" / "comparison.json").read_text())
    assert content["runs"]["ce"]["before"]["ece"]["half_width"] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": 0}, "seeds=0 came"),
        ({"seeds": 1.5}, "seeds=1.5 came"),
        ({"runs": {}}, "runs: there are none"),
        ({"runs": {"ce": {"label": "a", "against": "b"}}}, "against=b came"),
    ],
)
def test_what_can_not_be_compared_is_a_message(tmp_path, change, message):
    config = small(tmp_path)
    for name, value in change.items():
        OmegaConf.update(config, name, value, merge=False)
    with pytest.raises(ValueError, match=message):
        rehearse(config)


# ---- intervals


def test_the_interval_is_students():
    # By hand: mean 2, deviation 1, √3, and the quantile of two degrees of freedom.
    mean, half = seed_interval([1.0, 2.0, 3.0])
    assert mean == 2 and half == pytest.approx(4.303 / math.sqrt(3))


@pytest.mark.parametrize("count", [2, 5, 10, 11, 21, 101])
def test_its_quantiles_are_those_of_scipy(count):
    from scipy.stats import t

    values = [float(number) for number in range(count)]
    expected = t.ppf(0.975, count - 1) * statistics.stdev(values) / math.sqrt(count)
    # The table has three decimals, the expansion as much.
    assert seed_interval(values).half == pytest.approx(expected, rel=1e-3)


def test_a_single_value_excludes_nothing():
    assert math.isnan(seed_interval([3.0]).half) and not seed_interval([3.0]).excludes_zero
    with pytest.raises(ValueError, match="no values"):
        seed_interval([])


def test_differences_are_paired_and_marked():
    def scores(*values):
        return [dict.fromkeys(METRICS, value) for value in values]

    # Seeds differ by much more than runs do.
    before = {"a": scores(0.1, 0.5, 0.9), "b": scores(0.2, 0.6001, 1.0)}
    report = Comparison(
        title="",
        command="",
        labels={"a": "first", "b": "second"},
        seeds=(0, 1, 2),
        before=before,
        after=before,
        temperatures={"a": [1.0] * 3, "b": [1.0] * 3},
        reference={"a": "a", "b": "a"},
        caveat="",
        settings={},
        seconds=0.0,
    )
    assert report.difference("before", "b", "ece").mean == pytest.approx(0.1, abs=1e-4)
    first, second = report.rows("before")
    assert not any("*" in cell for cell in first) and all("*" in cell for cell in second[1:])
    assert second[4] == "60.00 ± 99.37*"
