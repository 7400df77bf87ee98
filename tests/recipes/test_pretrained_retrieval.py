"""A sentence model that is trained on, a tiny one from a folder in the real one's place."""

import json

import pytest

from lightning_losses.experiments.config.check_config import ConfigError
from lightning_losses.experiments.kinds.pretrained_retrieval import RETRIEVAL_METRICS
from lightning_losses.experiments.launch import experiment_of
from tests.recipes.conftest import composed, rehearse, train

SHORT = [
    "experiment=retrieval_pretrained",
    *("data.max_pairs=60", "data.batch_size=8", "model.max_length=12", "trainer.enable_progress_bar=false"),
    *("retrieval.seeds=[0,1]", "retrieval.objectives.infonce.lr=0.01", "retrieval.objectives.mw.lr=0.01"),
]


def test_each_objective_begins_with_the_same_model_and_claims_are_judged(tmp_path, tiny_encoder):
    values = train(composed(*SHORT, f"model.folder={tiny_encoder}"), tmp_path)
    assert list(values) == ["before", "infonce", "mw"]
    assert all(len(numbers[metric]) == 2 for numbers in values.values() for metric in RETRIEVAL_METRICS)
    # Each run is another network, and each seed another split.
    assert len({str(numbers) for numbers in values.values()}) == 3
    assert values["before"]["mrr"][0] != values["before"]["mrr"][1]
    content = json.loads((tmp_path / "report" / "report.json").read_text())
    assert content["values"] == values and [len(claim["lines"]) for claim in content["claims"]] == [2, 2]
    page = (tmp_path / "report" / "report.md").read_text()
    assert "| mw |" in page and "Learning rates: 0.01 of infonce, 0.01 of mw." in page
    assert (tmp_path / "report" / "retrieval.png").exists()


def test_each_objective_has_its_learning_rate_and_each_seed_its_split(tiny_encoder):
    given = [*SHORT, f"model.folder={tiny_encoder}", "retrieval.objectives.mw.lr=0.5", "optimizer.lr=0.2"]
    trainings = experiment_of(composed(*given)).seed_trainings()
    assert [
        [(one.name, one.seed, one.data.split_seed, one.module.optimizer.lr) for one in several.values()]
        for several in trainings
    ] == [[(f"infonce-{seed}", seed, seed, 0.01), (f"mw-{seed}", seed, seed, 0.5)] for seed in (0, 1)]
    # Another objective is one run more.
    further = experiment_of(composed(*given, "objective=clip_contrastive")).seed_trainings()[0]
    assert list(further) == ["infonce", "mw", "clip_contrastive"]
    assert further["clip_contrastive"].module.optimizer.lr == 0.2


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("retrieval.seeds=[]", "retrieval.seeds: none came; give at least one."),
        ("retrieval.claims.0.differences.0.metric=mr", "claims: there is no metric 'mr'"),
        ("data.tokenizer=null", "data.tokenizer: a network of token ids came with data of hashed words; give"),
        ("retrieval.objectives.mw.lr=0", "retrieval: lr of mw=0.0 came; give a number above 0."),
    ],
    ids=["seeds", "claim", "tokens", "rate"],
)
def test_what_does_not_fit_is_refused_before_anything_is_trained(override, told, tiny_encoder):
    with pytest.raises(ValueError) as caught:
        rehearse(composed(*SHORT, f"model.folder={tiny_encoder}", override))
    assert str(caught.value).startswith(told)


def test_a_sentence_model_is_not_given_hashed_words(tiny_encoder):
    with pytest.raises(ConfigError, match="give experiment=retrieval_pretrained for a sentence model"):
        rehearse(composed("experiment=retrieval", "model=sentence_encoder", f"model.folder={tiny_encoder}"))
