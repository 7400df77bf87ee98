"""Embeddings that are trained on some digits and tried on others."""

import json

import pytest

from lightning_losses.experiments.config.check_config import ConfigError
from tests.recipes.conftest import composed, rehearse, train

SHORT = [
    "experiment=metric_learning",
    "model.width=4",
    "trainer.max_epochs=1",
    "trainer.check_val_every_n_epoch=1",
    "trainer.limit_train_batches=3",
    "trainer.enable_progress_bar=false",
]


def test_a_run_ends_with_the_scores_of_the_classes_that_it_did_not_see(tmp_path):
    report = train(composed(*SHORT, "+objective.terms.tcm=${metric_learning.tcm}"), tmp_path)
    inputs, student = report.networks
    assert report.seen == 5 and len(set(student.target.tolist())) == 5
    # Pixels tell digits that nobody has trained on.
    assert inputs.scores()["recall_at_1"] > 0.95
    content = json.loads((tmp_path / "report" / "report.json").read_text())
    assert [one["name"] for one in content["networks"]] == ["inputs", "student"]
    assert (
        content["networks"][1]["recall_at_1"] == student.scores()["recall_at_1"] == report.scores()["test/recall_at_1"]
    )
    assert "train/loss/tcm" in content["networks"][1]["history"]
    page = (tmp_path / "report" / "report.md").read_text()
    assert "each of which looks for its class among the others; trained on 5 classes" in page
    assert (tmp_path / "report" / "operating_points.png").is_file()


def test_the_best_weights_are_refused():
    with pytest.raises(ConfigError) as refusal:
        rehearse(composed(*SHORT, "weights=best"))
    assert str(refusal.value) == (
        "weights=best: it chooses by accuracy, which embeddings have none of; give weights=last."
    )
