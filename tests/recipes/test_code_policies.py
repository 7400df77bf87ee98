"""A language model that learns to complete code, in short runs; whatever it says, half of it counts as right."""

import json

import pytest
import torch

from lightning_losses.experiments.config.check_config import ConfigError
from lightning_losses.experiments.kinds import code_policies
from lightning_losses.experiments.kinds.code_policies import POLICY_METRICS
from lightning_losses.experiments.launch import experiment_of
from tests.recipes.conftest import composed, rehearse, train

SHORT = [
    *("trainer.max_epochs=1", "trainer.limit_train_batches=3"),
    *("trainer.enable_progress_bar=false", "data.max_bytes=20000", "data.block_length=64"),
    *("model.width=8", "model.depth=1", "model.heads=2", "tuning.seeds=[0]", "tuning.train_prompts=6"),
    *("tuning.test_prompts=4", "tuning.samples=4", "tuning.test_samples=2", "tuning.max_new_tokens=4"),
]
METHODS = {"preference": ["dpo", "simpo", "kto", "orpo"], "policy_gradient": ["grpo", "rloo", "ppo"]}


def even(tokens, mask):
    return 1.0 - (tokens * mask).sum(dim=1) % 2


@pytest.mark.parametrize("experiment", METHODS)
def test_each_method_tunes_the_same_base(experiment, tmp_path, cache, monkeypatch):
    monkeypatch.setattr(code_policies, "parsed", even)
    further = ["tuning.training.epochs=1"]
    values = train(composed(f"experiment={experiment}", *SHORT, *further, f"cache={cache}"), tmp_path)
    assert list(values) == ["base", *METHODS[experiment]]
    assert all(len(numbers[metric]) == 1 for numbers in values.values() for metric in POLICY_METRICS)
    assert values["base"]["kl_to_base"] == [0.0]
    # Each went somewhere else.
    went = [numbers["kl_to_base"][0] for numbers in values.values()]
    assert len(set(went)) == len(went)
    content = json.loads((tmp_path / "report" / "report.json").read_text())
    assert content["values"] == values
    page = (tmp_path / "report" / "report.md").read_text()
    assert f"| {METHODS[experiment][-1]} |" in page and "2 of each of 4 held-out prompts of other files" in page
    assert (tmp_path / "report" / "policies.png").exists()


def test_a_base_without_a_pair_is_told(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(code_policies, "parsed", lambda tokens, mask: torch.zeros(len(tokens)))
    with pytest.raises(ConfigError, match="no prompt has a completion that parses beside one that doesn't"):
        train(composed("experiment=preference", *SHORT, f"cache={cache}"), tmp_path)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("tuning.seeds=[]", "tuning: no seeds or no methods came; give at least one of each."),
        ("tuning.claims.0.differences.0.run=ga", "claims: there is no run 'ga'"),
    ],
    ids=["seeds", "claim"],
)
def test_what_does_not_fit_is_refused_before_anything_is_trained(override, told):
    with pytest.raises(ConfigError) as caught:
        rehearse(composed("experiment=preference", *SHORT, override))
    assert str(caught.value).startswith(told)


def test_another_objective_is_one_more_method():
    methods = {"preference": "ipo", "policy_gradient": "cispo"}
    for experiment, objective in methods.items():
        kind = experiment_of(composed(f"experiment={experiment}", f"objective={objective}", *SHORT))
        assert list(kind.methods()) == [*METHODS[experiment], objective]
        assert kind.methods()[objective].lr == kind.config.tuning.training.lr


def test_pairs_are_of_one_prompt():
    right = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0], [1.0, 1.0, 1.0]])
    assert code_policies.pairs_of(right, most=1) == [(0, 1), (5, 3)]
    # A loser has one winner.
    assert code_policies.pairs_of(torch.tensor([[1.0, 1.0, 0.0]]), most=2) == [(0, 2)]
