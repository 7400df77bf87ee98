"""Every run of a comparison is tuned alike, on seeds of its own, and the choice is frozen before it is compared."""

import math

import pytest

from lightning_losses.experiments.comparison import tuning
from lightning_losses.experiments.comparison.comparison import ObjectiveComparison
from lightning_losses.experiments.comparison.comparison_plan import plan
from lightning_losses.experiments.comparison.runner import Runner
from lightning_losses.experiments.comparison.tuning import Candidate, Tuning
from lightning_losses.experiments.config.check_config import ConfigError
from lightning_losses.experiments.evidence.significance import detectable
from tests.recipes.test_comparison import SMALL, composed

KD = "objective.terms.kd.loss.temperature"
TUNED = "tuning={seeds: 2, learning_rates: [1e-06, 0.03]}"


def small(*words):
    return composed("objectives=[ce,kd]", "seeds=3", *words)


def test_the_best_by_validation_is_frozen_and_the_report_says_what_it_was(tmp_path, monkeypatch):
    words = ["objectives=[ce]", "seeds=2", TUNED]
    config = composed(*words, f"results={tmp_path}/results", f"cache={tmp_path}/networks")
    compared, read = [], Runner._read
    monkeypatch.setattr(Runner, "_read", lambda self, one: compared.append(one) or read(self, one))
    longer = [word for word in SMALL if "limit" not in word]
    found = ObjectiveComparison(config, overrides=[*longer, *words]).compare(tmp_path / "run")
    chosen = found.tuned[""]["ce"]
    # Seventeen steps at 1e-6 teach nothing; those at 0.03 and one rate further do.
    assert chosen["learning_rate"] >= 0.03 and chosen["parameter"] == "" and chosen["tried"] == 3
    *_, table, by_rate = found.tables()
    assert by_rate.heads[:3] == ["", "1e-06", "0.03"] and float(by_rate.rows[0][1]) < float(by_rate.rows[0][2])
    assert table.title == "Tuned to" and table.rows[0][:3] == ["ce", f"{chosen['learning_rate']:g}", "–"]
    assert "Every run was tuned by one rule" in found.note
    # What was chosen is what was compared, on other seeds.
    last = [one for one in compared if one.run == "ce"]
    assert {one.seed for one in last} == {0, 1}
    assert all(f"optimizer.lr={chosen['learning_rate']:g}" in one.words for one in last)
    assert {one.seed for one in compared if one.run != "ce"} == {100, 101}


@pytest.fixture
def scored(monkeypatch, tmp_path):
    """What `tune` chooses, where a candidate's validation accuracy is what a function says."""

    def scored(score, **node):
        config = small()
        planned = plan(config, SMALL)
        how = Tuning((100,), (0.01, 0.03, 0.09), {"kd": (KD, (2.0, 4.0, 8.0))})
        tried = []

        def scores(config, folder, planned, tuning, todo):
            tried.extend(one for candidates in todo.values() for one in candidates)
            return {place: {one: score(one) for one in candidates} for place, candidates in todo.items() if candidates}

        monkeypatch.setattr(tuning, "_scores", scores)
        return tuning.tune(config, tmp_path, planned, how), tried

    return scored


@pytest.mark.parametrize(("score", "best"), [("val_accuracy", 0.01), ("val_nll", 0.03)])
def test_the_stated_score_chooses(tmp_path, monkeypatch, score, best):
    class Scored:
        """The higher rate is less accurate and has the lower NLL."""

        def __init__(self, config, folder, planned, *, score):
            assert score == asked
            values = {"0.01": {"val_accuracy": 0.9, "val_nll": 2.0}, "0.03": {"val_accuracy": 0.8, "val_nll": 1.0}}
            self.values = {one: values.get(one.run.rpartition("=")[2], {}) for one in planned.planned}

        def run_all(self):
            pass

    asked = score
    monkeypatch.setattr(tuning, "Runner", Scored)
    config = composed("objectives=[ce]", "seeds=3", f"tuning={{learning_rates: [0.01, 0.03], score: {score}}}")
    planned = plan(config, SMALL)
    chosen = tuning.tune(config, tmp_path, planned, Tuning.read(config, planned))["", "ce"]
    assert chosen.candidate.learning_rate == best
    assert chosen.by_rate[best] == chosen.score == {"val_accuracy": 0.9, "val_nll": 1.0}[score]


def test_a_best_within_the_grid_ends_the_search(scored):
    chosen, tried = scored(lambda one: -abs(math.log(one.learning_rate / 0.03)) - abs((one.value or 4.0) - 4.0))
    assert chosen["", "kd"].candidate == Candidate(0.03, KD, 4.0) and not chosen["", "kd"].at_edge
    assert len(tried) == 3 + 9 and chosen["", "ce"].candidate == Candidate(0.03)


def test_a_best_at_an_edge_is_followed_three_steps_and_told(scored):
    chosen, _ = scored(lambda one: one.learning_rate + (one.value or 0.0))
    best = chosen["", "kd"]
    assert best.candidate == Candidate(0.09, KD, 64.0) and best.at_edge and best.tried == 9 + 2 + 1 + 1
    assert chosen["", "ce"].candidate.learning_rate == pytest.approx(2.43) and chosen["", "ce"].tried == 6
    # Two steps beyond the grid a value within what was tried is the best.
    chosen, _ = scored(lambda one: -abs((one.value or 16.0) - 16.0) - abs(one.learning_rate - 0.03))
    assert chosen["", "kd"].candidate == Candidate(0.03, KD, 16.0) and not chosen["", "kd"].at_edge
    # One that helps no more is within what was tried.
    chosen, _ = scored(lambda one: min(one.learning_rate, 0.09) - (one.learning_rate > 0.1))
    assert chosen["", "ce"].candidate.learning_rate == 0.09 and not chosen["", "ce"].at_edge


def test_what_refuses_the_best_candidate_too_ends_the_search(scored, monkeypatch):
    def refused(*_):
        raise ConfigError("there are no configurations")

    monkeypatch.setattr(tuning, "check_overrides", refused)
    with pytest.raises(ConfigError, match="there are no configurations"):
        scored(lambda one: one.learning_rate)


def test_where_everything_diverged_it_says_so(scored):
    with pytest.raises(ConfigError, match="tuning: ce: every candidate broke or diverged"):
        scored(lambda one: -math.inf)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (
            "{rates: [0.1]}",
            "tuning: there is no 'rates'; .*hoose one of: first_seed, learning_rates, parameters, score, seeds",
        ),
        ("{score: val_acuracy}", "tuning: there is no score .val_acuracy.; did you mean val_accuracy"),
        ("{learning_rates: [0.1]}", r"tuning.learning_rates=\[0.1\] came; give two or more different ones above 0"),
        ("{first_seed: 1}", "tuning: the seeds 1 to 3 came, and the comparison's are 0 to 2"),
        ("{parameters: {dkd: {a: [1, 2]}}}", "tuning.parameters: there is no 'dkd'; did you mean kd"),
        ("{learning_rates: [a, b]}", r"tuning.learning_rates=\['a', 'b'\] came; give a list of numbers"),
        ("{seeds: many}", "tuning: first_seed=100 and seeds='many' came; give whole numbers"),
        ("{parameters: {kd: {a: 1}}}", "tuning.parameters.kd.a=1 came; give a list of numbers"),
        (
            "{parameters: {kd: {a: [1]}}}",
            "tuning.parameters.kd=.* came; give one key with two or more different values",
        ),
        (
            "{parameters: {kd: {a: [1, 1]}}}",
            "tuning.parameters.kd=.* came; give one key with two or more different values",
        ),
    ],
)
def test_what_can_not_be_tuned_is_refused(node, message):
    config = small(f"tuning={node}")
    with pytest.raises(ConfigError, match=message):
        Tuning.read(config, plan(config, SMALL))


def test_a_key_that_a_run_does_not_have_is_refused_before_anything_is_trained():
    words = "tuning={parameters: {kd: {objective.terms.kd.loss.temprature: [2, 4]}}}"
    with pytest.raises(ConfigError, match="tuning of kd: .*there is no 'temprature'"):
        ObjectiveComparison(small(words), overrides=SMALL).rehearse()


def test_the_smallest_difference_that_is_seen_is_the_one_of_four_in_five_draws():
    import torch

    draws = torch.randn(2000, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    smallest = sum(detectable(one.tolist()) for one in draws[:200]) / 200
    moved = draws + smallest
    t = moved.mean(1) / moved.std(1) * 10**0.5
    assert 0.75 < float((t > 2.2622).double().mean()) < 0.85
