"""Vectors of texts' tokens and of their clusters, of a tiny model: what is trained, measured and claimed."""

import json

import pytest
import torch

from lightning_losses.experiments.kinds.multi_vector import (
    VECTOR_METRICS,
    PairStates,
    TokenSets,
    token_sets,
    vector_numbers,
)
from lightning_losses.networks.crisp_clustering import CrispClustering
from tests.recipes.conftest import composed, rehearse, train

SHORT = [
    "experiment=multi_vector",
    *("data.max_pairs=60", "model.max_length=12", "multi_vector.seeds=[0,1]", "trainer.max_epochs=2"),
    *("multi_vector.dim=8", "multi_vector.lr=0.02"),
]


def test_all_vectors_clusters_and_one_are_compared_and_claims_judged(tmp_path, tiny_encoder):
    values = train(composed(*SHORT, f"model.folder={tiny_encoder}"), tmp_path)
    assert list(values) == ["tokens", "crisp", "afterwards", "mean", "frozen_tokens", "frozen_mean"]
    assert all(len(numbers[metric]) == 2 for numbers in values.values() for metric in VECTOR_METRICS)
    assert len({str(numbers) for numbers in values.values()}) == 6
    vectors = {run: numbers["document_vectors"] for run, numbers in values.items()}
    assert vectors["frozen_mean"] == vectors["mean"] == [1.0, 1.0]
    # Of 12 tokens 4 clusters, some of which may lose their tokens.
    assert all(
        3 < few <= 4 < 10 < every <= 12
        for run in ("crisp", "afterwards")
        for few, every in zip(vectors[run], vectors["tokens"], strict=True)
    )
    content = json.loads((tmp_path / "report" / "report.json").read_text())
    assert content["values"] == values and [len(claim["lines"]) for claim in content["claims"]] == [1, 2]
    assert "| crisp |" in (tmp_path / "report" / "report.md").read_text()
    assert (tmp_path / "report" / "vectors.png").exists()


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("multi_vector.seeds=[]", "multi_vector: no seeds or no runs came; give at least one of each."),
        (
            "multi_vector.runs.afterwards.projection_of=afterwards",
            "multi_vector.runs.afterwards.projection_of=afterwards: give an earlier run",
        ),
        ("multi_vector.claims.0.differences.0.metric=recall", "claims: there is no metric 'recall'"),
        ("data.tokenizer=null", "data: give data=docstring_pairs with data.tokenizer"),
        ("trainer.max_epochs=0", "multi_vector: epochs=0 came; give a whole number of at least 1."),
        ("multi_vector.lr=0", "multi_vector: lr=0 came; give a number above 0."),
    ],
    ids=["seeds", "of", "claim", "tokens", "epochs", "rate"],
)
def test_what_does_not_fit_is_refused_before_anything_is_trained(override, told, tiny_encoder):
    with pytest.raises(ValueError) as caught:
        rehearse(composed(*SHORT, f"model.folder={tiny_encoder}", override))
    assert str(caught.value).startswith(told)


def test_vectors_that_are_the_texts_find_them_and_padding_counts_nothing():
    states = torch.eye(6).view(3, 2, 6)
    # Padding that would find another text as well as its own.
    padded = torch.cat([states, states.roll(1, dims=0)], dim=1)
    mask = torch.tensor([[True, True, False, False]]).expand(3, 4)
    pairs = PairStates(TokenSets(states, mask[:, :2]), TokenSets(padded, mask))
    assert vector_numbers(torch.nn.Identity(), None, pairs, pairs) == {
        **dict.fromkeys(("mrr", "recall_at_1", "recall_at_10", "val_mrr"), 1.0),
        "document_vectors": 2.0,
    }
    # Padding is left out where no text of the batch is so long.
    assert pairs.rows(torch.tensor([2, 0])).documents.vectors.equal(states[[2, 0]])
    # One mean, of length 1.
    (vector,), kept = (
        part[0] for part in token_sets(torch.nn.Identity(), CrispClustering(clusters=1), pairs.documents)
    )
    torch.testing.assert_close(vector, torch.tensor([0.5**0.5, 0.5**0.5, 0.0, 0.0, 0.0, 0.0]))
    assert kept.tolist() == [True]
