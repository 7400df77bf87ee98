"""RESULTS.md and its pages: what is run and what is not, what a failed gate, a broken run and a comparison become."""

import json
import re
import shutil
import sys

import pytest

from lightning_losses.experiments.comparison.comparison_report import Comparison
from lightning_losses.experiments.comparison.shown_numbers import METRICS
from lightning_losses.experiments.evidence import result_runs
from lightning_losses.experiments.evidence.claims import Claim, Difference
from lightning_losses.experiments.evidence.kept_results import KeptResults
from lightning_losses.recipes import results
from tests.recipes.conftest import ROOT


def write_report(folder, generalised, seconds=3.0, settings=None):
    numbers = {"label": "x", "delay": None if generalised is None else generalised - 10.0, "memorised": 10.0,
               "generalised": generalised, "steps": 500.0, "curves": {}}  # fmt: skip
    runs = {name: dict(numbers) for name in ("rich", "between", "lazy")}
    for place, name in enumerate(runs):
        if generalised is not None:
            runs[name]["delay"] += place
    result_runs.report_of(folder).parent.mkdir(parents=True)
    result_runs.report_of(folder).write_text(json.dumps({"seconds": seconds, "runs": runs, "settings": settings}))


@pytest.fixture
def make_results(tmp_path, monkeypatch):
    """Run `main` on seeds, with training replaced by `outcome(seed)`: a step of generalisation, or an exception."""

    def make(outcomes, *further):
        started = []

        def run(experiment, seed, folder):
            started.append(seed)
            if outcomes[seed] == "broken":
                return False
            write_report(folder, outcomes[seed])
            return True

        monkeypatch.setattr(result_runs, "run", run)
        options = ["--experiments", "grok_lazy_rich", "--seeds", ",".join(map(str, outcomes))]
        options += ["--folder", str(tmp_path / "runs"), "--output", str(tmp_path / "RESULTS.md")]
        monkeypatch.setattr(sys, "argv", ["results.py", *options, *further])
        code, page = results.main(), tmp_path / "docs" / "results" / "grok_lazy_rich.md"
        return code, started, (tmp_path / "RESULTS.md").read_text() + page.read_text()

    return make


def test_finished_runs_are_not_run_again(make_results):
    assert make_results({3: 100.0, 4: 200.0})[:2] == (0, [3, 4])
    code, started, text = make_results({3: 100.0, 4: 200.0, 5: 300.0})
    assert (code, started) == (0, [5])
    assert "reproduced (all gates hold on 3 of 3 seeds)" in text and "not reproduced" not in text
    assert "| α = 1/4 | delay, steps | 90 | 190 | 290 | 190 [0, 438] | increasing from run to run | 3 of 3 |" in text


def test_a_claim_that_fails_is_a_result(make_results):
    code, _, text = make_results({3: 100.0, 4: None})
    assert code == 0
    assert "not reproduced (all gates hold on 1 of 2 seeds)" in text
    assert "| α = 1/4 | delay, steps | 90 | over 490 | – | increasing from run to run | 1 of 2 |" in text


def test_a_run_that_breaks_is_told_and_the_others_go_on(make_results):
    code, started, text = make_results({3: "broken", 4: 100.0})
    assert (code, started) == (1, [3, 4])
    assert "scale α), the longer from memorising to generalising. | not run |" in text
    assert "| α = 1/4 | delay, steps | not run | 90 |" in text


def test_where_every_run_breaks_nothing_is_written(make_results, tmp_path, capsys):
    _, _, before = make_results({3: 100.0})
    code, _, text = make_results({4: "broken"})
    assert (code, text) == (1, before) and "every run broke" in capsys.readouterr().out


def test_what_results_can_not_use_is_one_message(tmp_path, monkeypatch, capsys):
    (tmp_path / "a_file").touch()
    wrong = {"--seeds a,b came": ["--seeds", "a,b"], "a_file can't be written": ["--folder", f"{tmp_path}/a_file/runs"]}
    for said, words in wrong.items():
        monkeypatch.setattr(sys, "argv", ["results.py", *words])
        with pytest.raises(SystemExit) as exit:
            results.main()
        assert exit.value.code == 2 and said in capsys.readouterr().err


def test_other_settings_are_another_run_and_other_words_are_not(tmp_path):
    settings = result_runs.settings_of("grok_xor", 3)
    folder = result_runs.folder_of(tmp_path, "grok_xor", settings)
    assert result_runs.folder_of(tmp_path, "grok_xor", {**settings, "claim": "another", "gates": []}) == folder
    assert result_runs.folder_of(tmp_path, "grok_xor", {**settings, "threads": 2}) != folder


def test_other_code_is_another_run_which_is_taken_only_where_it_is_asked_for(
    tmp_path, monkeypatch, make_results, capsys
):
    settings = result_runs.settings_of("grok_lazy_rich", 3)
    now = result_runs.folder_of(tmp_path / "runs", "grok_lazy_rich", settings)
    monkeypatch.setattr(result_runs, "source_digest", lambda names: "another")
    then = result_runs.folder_of(tmp_path / "runs", "grok_lazy_rich", settings)
    assert now != then
    write_report(now, 100.0, settings=settings)
    assert result_runs.older_run(then, settings) == now
    assert result_runs.older_run(then, {**settings, "threads": 2}) is None
    code, started, text = make_results({3: 100.0}, "--stale")
    assert (code, started) == (0, [])
    assert "an earlier version of the code made, from the same settings: `grok_lazy_rich` seed 3." in text
    before = text
    code, started, text = make_results({3: 100.0}, "--no-run")
    # There is nothing to write about, and what was written stays.
    assert (code, started, text) == (1, [], before) and "holds no report of them" in capsys.readouterr().out
    assert make_results({3: 100.0})[1] == [3]


def test_a_comparison_is_a_page_with_verdicts_tables_and_pictures(tmp_path, monkeypatch):
    found = Comparison(
        title="Some objectives",
        command="",
        settings={"all rows": "", "60 rows": "data.train_rows=60"},
        runs={"ce": "ce", "kd": "kd"},
        baseline="ce",
        seeds=(0, 1, 2),
        values={
            setting: {run: {metric: [value, value + 0.01, value + 0.03 * value] for metric in METRICS}
                      for run, value in (("ce", 0.5), ("kd", 0.6))}
            for setting in ("all rows", "60 rows")
        },
        claims=(Claim("KD is better.", "us, 2026", (Difference("kd", "ce", "accuracy", "higher", "60 rows"),)),),
        margins={"accuracy": 0.02},
        made_with={"hardware": "A processor, 1 thread", "torch": "9"},
        untested=("Larger networks.",),
        config={"common": ["data=digits"]},
    )  # fmt: skip
    write = found.page().write
    monkeypatch.setattr(result_runs, "run_comparison", lambda name, folder, stale: bool(write(folder / "report")))
    options = ["--experiments", "bed_a", "--folder", str(tmp_path / "runs")]
    monkeypatch.setattr(sys, "argv", ["results.py", *options, "--output", str(tmp_path / "RESULTS.md")])
    assert results.main() == 0
    results_page, place = tmp_path / "RESULTS.md", tmp_path / "docs" / "results" / "bed_a.md"
    main = results_page.read_text()
    row = "| [`bed_a`](docs/results/bed_a.md) | KD is better. | **reproduced** | 60 rows: accuracy of kd minus ce: +10"
    assert row in main and "- Larger networks." in main
    assert main.startswith("# Results\n") and "\n\nClaims of papers, tested on small data and" in main
    assert "1 reproduced, 0 refuted, 0 inconclusive, 0 not testable here, 1 in all." in main
    assert (
        "- [Some objectives](docs/results/bed_a.md): accuracy against `ce`: all rows: `kd` +10.1 ± 0.4 points; " in main
    )
    assert "; 60 rows: `kd` +10.1 ± 0.4 points. KD is better.\n" in main
    assert "\n- 60 rows: ce has accuracy 50.83 ± 1.90 %; " in main
    assert "![Some objectives](docs/images/bed_a_intervals_accuracy.png)" in main
    text = place.read_text()
    assert text.startswith("# Some objectives\n") and "Made with A processor, 1 thread, torch 9." in text
    assert "| KD is better. (us, 2026) | **reproduced** | 60 rows: accuracy of kd minus ce: +10" in text
    assert (
        "Margins, stated beforehand: 2 points of accuracy. One look was planned, at 5%. All intervals are at 95%."
        in text
    )
    assert "| holds: 60 rows: no run of 6 diverged |" in text
    assert "- 60 rows: `data.train_rows=60`" in text and "## accuracy, %" in text
    assert "- 60 rows: accuracy higher: `kd`; accuracy lower: none; " in text
    pictures = re.findall(r"\]\((.*png)\)", text)
    assert len(pictures) == 2 and all((place.parent / picture).is_file() for picture in pictures)
    # The kept numbers alone give the same pages.
    before = text, results_page.read_text()
    shutil.rmtree(tmp_path / "runs")
    monkeypatch.setattr(sys, "argv", ["results.py", *options, "--output", str(results_page), "--no-run"])
    assert results.main() == 0
    assert (place.read_text(), results_page.read_text()) == before


def test_the_pages_are_what_the_kept_numbers_give(tmp_path, monkeypatch):
    """Of the experiments that have been measured; the others are named with their commands."""
    text, numbers = (ROOT / "RESULTS.md").read_text(), ROOT / result_runs.KEPT
    # Each comparison has a few lines here; its tables are on its page.
    shown = [text for text in text.split("\n## ") if "![" in text]
    assert shown and all(len(text.splitlines()) <= 13 for text in shown)
    pages = {path.stem: path.read_text() for path in (ROOT / "docs" / "results").glob("*.md")}
    measured = {path.stem for path in numbers.glob("*.json")}
    assert set(pages) == measured | set(result_runs.GROKKING)
    for name in {*result_runs.COMPARISONS, *result_runs.EXAMPLES} - measured:
        assert f"- `python recipes/compare.py comparison={name}`" in text
    shutil.copytree(ROOT / "docs" / "results", tmp_path / "docs" / "results")
    drawn = []
    monkeypatch.setattr(result_runs, "save_figure", lambda figure, path: drawn.append(path.name))
    monkeypatch.setattr(sys, "argv", ["results.py", "--no-run", "--folder", str(tmp_path / "runs"),
                                      "--output", str(tmp_path / "RESULTS.md")])  # fmt: skip
    # Without any numbers there is nothing to write.
    assert results.main() == (0 if measured else 1)
    assert not measured or (tmp_path / "RESULTS.md").read_text() == text
    for path in (tmp_path / "docs" / "results").glob("*.md"):
        assert path.read_text() == pages[path.stem], path.stem
    assert bool(drawn) == bool(measured) and all((ROOT / result_runs.PICTURES / name).is_file() for name in drawn)


@pytest.mark.parametrize("experiment", result_runs.GROKKING)
def test_every_experiment_says_what_it_claims(experiment):
    settings = result_runs.settings_of(experiment, 3)
    assert all(settings[word] for word in ("title", "claim", "source", "untested", "gates"))


@pytest.mark.slow
def test_a_run_that_can_not_start_breaks(tmp_path, monkeypatch):
    monkeypatch.setattr(result_runs, "_overrides", lambda experiment, seed: ["experiment=nothing"])
    assert result_runs.run("nothing", 3, tmp_path / "run") is False
    assert "nothing" in (tmp_path / "run" / "output.txt").read_text()


def test_a_damaged_result_is_none_and_a_new_one_replaces_it(tmp_path):
    kept = KeptResults(tmp_path)
    kept.save({"seed": 0}, "a", {"accuracy": 0.5, "nll": None})
    assert kept.load({"seed": 0}, "a").values == {"accuracy": 0.5, "nll": None}
    assert kept.load({"seed": 1}, "a") is None
    kept.place({"seed": 0}, "a").write_text('{"values": {"accur')
    assert kept.load({"seed": 0}, "a") is None
    kept.save({"seed": 0}, "a", {"accuracy": 0.6})
    assert kept.load({"seed": 0}, "a").values == {"accuracy": 0.6}
    # Nothing else is left behind.
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1
