"""A network that learns without labels, on digits: what is trained, measured and claimed."""

import json

import pytest
import torch
from omegaconf import OmegaConf

from lightning_losses.data import ImageDataset
from lightning_losses.experiments.config.check_config import ConfigError
from lightning_losses.experiments.kinds.self_supervised import FEATURE_METRICS, RUNS, feature_accuracies
from lightning_losses.experiments.launch import experiment_of
from tests.recipes.conftest import composed, rehearse, train

SHORT = [
    "data=digits",
    "data.labelled_rows=200",
    "model=small_cnn",
    "model.width=4",
    "trainer.max_epochs=2",
    "trainer.check_val_every_n_epoch=2",
    "trainer.limit_train_batches=3",
    "trainer.enable_progress_bar=false",
    "modules.student.network.widths=[8,8]",
    "modules.student.augmentation=${contrastive.views.image}",
    "contrastive.seeds=[0,1]",
]


def test_features_are_measured_on_every_seed_and_claims_are_judged(tmp_path):
    values = train(composed("experiment=contrastive", *SHORT), tmp_path)
    assert values.keys() == set(RUNS)
    assert all(len(numbers[metric]) == 2 for numbers in values.values() for metric in FEATURE_METRICS)
    # The networks are three, of each seed its own.
    assert len({str(numbers) for numbers in values.values()}) == 3
    assert values["untrained"]["probe_accuracy"][0] != values["untrained"]["probe_accuracy"][1]
    assert all(0.2 < share <= 1 for share in values["untrained"]["knn_accuracy"])
    content = json.loads((tmp_path / "report" / "report.json").read_text())
    assert content["values"] == values
    assert [len(claim["lines"]) for claim in content["claims"]] == [2, 1]
    page = (tmp_path / "report" / "report.md").read_text()
    assert "| pretrained (nt_xent) |" in page and "200 of them with a label, 359 test rows" in page
    assert (tmp_path / "report" / "features.png").exists()


def test_each_seed_draws_weights_and_split_for_both_networks():
    pairs = experiment_of(composed("experiment=contrastive", *SHORT, "contrastive.seeds=[3,5]")).seed_trainings()
    assert [[(one.name, one.seed, one.data.split_seed) for one in pair] for pair in pairs] == [
        [(f"student-{seed}", seed, seed), (f"supervised-{seed}", seed, seed)] for seed in (3, 5)
    ]


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("contrastive.seeds=[]", "contrastive.seeds: none came; give at least one."),
        ("contrastive.claims.0.differences.0.metric=sise", "claims: there is no metric 'sise'"),
        ("objective=ce", "objective: ce need logits or features, and two views are only embedded; give an objective"),
        (
            "objective=supcon",
            "objective: ce and supcon need logits or features, and two views are only embedded; of this one the rest "
            "can be trained, by '~objective.terms.ce' '~objective.terms.supcon.inputs'.",
        ),
    ],
    ids=["seeds", "claim", "logits", "features"],
)
def test_what_does_not_fit_is_refused_before_anything_is_trained(override, told):
    with pytest.raises(ConfigError) as caught:
        rehearse(composed("experiment=contrastive", *SHORT, override))
    assert str(caught.value).startswith(told)


def test_what_is_advised_for_supcon_trains_the_labelled_rows():
    changes = ["objective=supcon", "~objective.terms.ce", "~objective.terms.supcon.inputs"]
    rehearse(composed("experiment=contrastive", *SHORT, *changes))


@pytest.mark.parametrize("objective", ["dino_loss objective.terms.dino_loss.loss.feature_dim=8", "negative_cosine"])
def test_what_is_predicted_may_be_the_moving_average(objective):
    rehearse(composed("experiment=moving_target", *f"objective={objective}".split(), *SHORT))


def test_features_that_are_the_classes_tell_them_and_rows_without_a_label_count_nothing():
    class Split:
        num_classes = 3
        train = ImageDataset(torch.eye(3).repeat(4, 1), torch.arange(12) % 3)
        val = test = ImageDataset(torch.eye(3).repeat(2, 1), torch.arange(6) % 3)

    # Their label is not known, and what they look like is wrong.
    Split.train.target[9:] = -100
    Split.train.inputs[9:] = 7.0
    found = feature_accuracies(torch.nn.Identity(), Split, neighbours=2)
    assert found == {"knn_accuracy": 1.0, "probe_accuracy": 1.0, "val_probe_accuracy": 1.0}


@pytest.mark.parametrize(
    ("experiment", "student", "options"),
    [
        ("contrastive", "modules.student", {"micro_batch": None, "queue_size": 0}),
        ("moving_target", "modules.student", {"micro_batch": None, "queue_size": 0}),
        ("retrieval", "modules.student", {"micro_batch": None}),
        ("retrieval_pretrained", "retrieval.student", {"micro_batch": None}),
        ("distill_embeddings", "embeddings.student", {"micro_batch": None}),
    ],
)
def test_batches_larger_than_memory_are_asked_for_by_plain_overrides(experiment, student, options):
    words = [f"{student}.{name}=64" for name in options]
    plain, changed = (OmegaConf.select(composed(f"experiment={experiment}", *more), student) for more in ([], words))
    assert {name: plain[name] for name in options} == options
    assert {name: changed[name] for name in options} == dict.fromkeys(options, 64)
