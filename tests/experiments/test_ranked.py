"""What the reports of very many labels and of retrieval say, of networks that find everything or nothing."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from lightning_losses.data.docstring_pairs import Pair, PairDataset
from lightning_losses.data.stdlib_calls import CallsDataset
from lightning_losses.experiments.kinds.extreme import ExtremeTraining, label_ranking
from lightning_losses.experiments.kinds.retrieval import RetrievalTraining
from lightning_losses.experiments.training.training import Trained
from lightning_losses.metrics.retrieval import pooled_auc
from lightning_losses.networks.hashed_text_encoder import HashedTextEncoder, hashed_features

LABELS = torch.zeros(40, 8).scatter(1, torch.arange(40).unsqueeze(1) % 6, 1.0).bool()
ROWS = CallsDataset(torch.arange(40).unsqueeze(1) % 6, LABELS)


class Knows(nn.Module):
    """Scores of which the right label has the largest."""

    def forward(self, inputs):
        return torch.zeros(len(inputs), 8).scatter(1, inputs, 9.0)


class Hot(nn.Module):
    """Texts of equal first features have equal vectors."""

    def forward(self, inputs):
        return torch.nn.functional.one_hot(inputs[:, 0], 64).float()


def experiment(kind):
    return SimpleNamespace(config=OmegaConf.create({"seed": 3, "weights": "last"}), command="train", _untrained=None)


def test_a_network_that_knows_the_labels_has_every_first_rank_right():
    data = SimpleNamespace(name="calls", train=ROWS, val=ROWS, test=ROWS)
    student = SimpleNamespace(datamodule=data, label="student")
    trained = Trained("student", "student", Knows(), {}, 1.0)
    numbers = ExtremeTraining.numbers(experiment(ExtremeTraining), trained, student)
    first = ("precision_at_1", "propensity_scored_precision_at_1", "val_precision_at_1")
    assert all(numbers[name] == 1 for name in first)
    assert numbers["precision_at_5"] == pytest.approx(0.2) and numbers["propensity_scored_precision_at_5"] == 1
    report = ExtremeTraining.report(experiment(ExtremeTraining), student, [trained], 0.0)
    common, own = report.rows()
    # One of four labels that are the most common.
    assert common[:2] == ["the most common labels", "17.5 [8.7, 31.9]"] and own[1].startswith("100.0 [")
    assert report.scores()["test/precision_at_1"] == 1
    page = report.page()
    assert set(page.figures) == {"precision.png", "losses.png"} and page.figures["precision.png"]()
    low, high = label_ranking(Knows()(ROWS.inputs), LABELS.roll(1, 0), LABELS)["propensity_scored_precision_at_5"][1:]
    assert 0 <= low <= high <= 1


def test_retrieval_is_told_before_and_after():
    pairs = [Pair(f"query {n} of many words", f"document {n} of many words, too") for n in range(12)]
    split = PairDataset(pairs, torch.arange(12), partial(hashed_features, buckets=64, length=8))
    split.queries = split.documents = (torch.arange(12) + 1).unsqueeze(1)
    data = SimpleNamespace(name="pairs", train=split, val=split, test=split)
    before = HashedTextEncoder(64, dim=2)
    nn.init.ones_(before.features.weight)
    student = SimpleNamespace(datamodule=data, label="student", build=lambda: nn.ModuleDict({"network": before}))
    own = experiment(RetrievalTraining)
    own._untrained = lambda given: RetrievalTraining._untrained(own, given)
    trained = Trained("student", "student", Hot(), {}, 1.0)
    numbers = RetrievalTraining.numbers(own, trained, student)
    assert numbers["mrr"] == numbers["recall_at_1"] == numbers["pooled_auc"] == numbers["val_mrr"] == 1
    # Equal vectors find nothing: every document is before the query's own.
    assert numbers["mrr_before"] == pytest.approx(1 / 12)
    report = RetrievalTraining.report(own, student, [trained], 0.0)
    assert [row[4] for row in report.rows()] == ["50.00", "100.00"]
    page = report.page()
    assert set(page.figures) == {"retrieval.png", "losses.png"} and page.figures["retrieval.png"]()


def test_the_area_is_that_of_scikit_learn():
    from sklearn.metrics import roc_auc_score

    generator = torch.Generator().manual_seed(0)
    queries, documents = (torch.randn(9, 3, generator=generator, dtype=torch.float64).round() + 0.1 for _ in range(2))
    cosines = nn.functional.normalize(queries, dim=-1) @ nn.functional.normalize(documents, dim=-1).mT
    expected = roc_auc_score(torch.eye(9).flatten(), cosines.flatten())
    assert float(pooled_auc(queries, documents)) == pytest.approx(expected)
