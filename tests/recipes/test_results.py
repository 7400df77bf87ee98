"""RESULTS.md: what is run and what is not, what a failed gate and a broken run do, intervals."""

import json
import math
import sys

import pytest
from scipy import stats

from lightning_losses.recipes import results


def write_report(folder, generalised, seconds=3.0):
    numbers = {"label": "x", "delay": None if generalised is None else generalised - 10.0, "memorised": 10.0,
               "generalised": generalised, "steps": 500.0, "curves": {}}  # fmt: skip
    runs = {name: dict(numbers) for name in ("rich", "between", "lazy")}
    for place, name in enumerate(runs):
        if generalised is not None:
            runs[name]["delay"] += place
    results.report_of(folder).parent.mkdir(parents=True)
    results.report_of(folder).write_text(json.dumps({"seconds": seconds, "runs": runs}))


@pytest.fixture
def make_results(tmp_path, monkeypatch):
    """Run `main` on seeds, with training replaced by `outcome(seed)`: a step of generalisation, or an exception."""

    def make(outcomes):
        started = []

        def run(experiment, seed, folder):
            started.append(seed)
            if outcomes[seed] == "broken":
                return False
            write_report(folder, outcomes[seed])
            return True

        monkeypatch.setattr(results, "run", run)
        options = ["--experiments", "grok_lazy_rich", "--seeds", ",".join(map(str, outcomes))]
        options += ["--folder", str(tmp_path / "runs"), "--output", str(tmp_path / "RESULTS.md")]
        monkeypatch.setattr(sys, "argv", ["results.py", *options])
        return results.main(), started, (tmp_path / "RESULTS.md").read_text()

    return make


def test_finished_runs_are_not_run_again(make_results):
    assert make_results({3: 100.0, 4: 200.0})[:2] == (0, [3, 4])
    code, started, text = make_results({3: 100.0, 4: 200.0, 5: 300.0})
    assert (code, started) == (0, [5])
    assert "reproduced (all gates hold on 3 of 3 seeds)" in text and "not reproduced" not in text
    assert "| α = 1/4 | delay | 90 | 190 | 290 | 190 ± 248 | increasing from run to run | 3 of 3 |" in text


def test_a_claim_that_fails_is_a_result(make_results):
    code, _, text = make_results({3: 100.0, 4: None})
    assert code == 0
    assert "not reproduced (all gates hold on 1 of 2 seeds)" in text
    assert "| α = 1/4 | delay | 90 | over 490 | – | increasing from run to run | 1 of 2 |" in text


def test_a_run_that_breaks_is_told_and_the_others_go_on(make_results):
    code, started, text = make_results({3: "broken", 4: 100.0})
    assert (code, started) == (1, [3, 4])
    assert "| `grok_lazy_rich` | not run |" in text
    assert "| α = 1/4 | delay | not run | 90 |" in text


def test_other_settings_are_another_run_and_other_words_are_not(tmp_path):
    settings = results.settings_of("grok_xor", 3)
    folder = results.folder_of(tmp_path, "grok_xor", settings)
    assert results.folder_of(tmp_path, "grok_xor", {**settings, "claim": "another", "gates": []}) == folder
    assert results.folder_of(tmp_path, "grok_xor", {**settings, "threads": 2}) != folder


@pytest.mark.parametrize("count", [2, 3, 5, 10])
def test_intervals_are_students(count):
    values = [float(number**2) for number in range(count)]
    mean, half = results.mean_and_interval(values)
    low, high = stats.t.interval(0.95, count - 1, loc=mean, scale=stats.sem(values))
    # The table has four digits.
    assert (mean - half, mean + half) == pytest.approx((low, high), rel=1e-3, abs=1e-3)
    assert math.isnan(results.mean_and_interval([*values, math.nan])[0])


@pytest.mark.parametrize("experiment", results.EXPERIMENTS)
def test_every_experiment_says_what_it_claims(experiment):
    settings = results.settings_of(experiment, 3)
    assert all(settings[word] for word in ("title", "claim", "source", "untested", "gates"))


@pytest.mark.slow
def test_a_run_that_can_not_start_breaks(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "_overrides", lambda experiment, seed: ["experiment=nothing"])
    assert results.run("nothing", 3, tmp_path / "run") is False
    assert "nothing" in (tmp_path / "run" / "output.txt").read_text()
