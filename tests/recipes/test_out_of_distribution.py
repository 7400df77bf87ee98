"""Foreign data told from known: what is trained, measured and claimed, in short runs on digits."""

import json

import pytest

from lightning_losses.experiments.config.check_config import ConfigError
from lightning_losses.experiments.kinds.out_of_distribution import MEASURES
from tests.recipes.conftest import composed, rehearse, train

SHORT = [
    *("experiment=out_of_distribution", "data.source._target_=lightning_losses.data.Digits"),
    *("data.input_shape=[1,8,8]", "~data.foreign.digits", "data.noise_rows=50", "model.width=4"),
    *("trainer.max_epochs=2", "trainer.check_val_every_n_epoch=2", "trainer.limit_train_batches=3"),
    *("trainer.enable_progress_bar=false", "out_of_distribution.seeds=[0,1]"),
]
SCORES = ["msp", "max_logit", "energy", "odin", "react", "knn", "mahalanobis", "mahalanobis_last"]


def test_every_score_is_measured_on_every_set_and_claims_are_judged(tmp_path):
    values = train(composed(*SHORT), tmp_path)
    sets = ["left out", "noise"]
    assert values.keys() == {f"{score} on {name}" for score in SCORES for name in [*sets, "average"]}
    assert all(len(numbers[measure]) == 2 for numbers in values.values() for measure in MEASURES)
    for score in SCORES:
        two, average = ([values[f"{score} on {name}"]["auroc"] for name in names] for names in (sets, ["average"]))
        assert average[0] == pytest.approx([sum(pair) / 2 for pair in zip(*two, strict=True)])
    # Noise looks like nothing that convolutions have seen.
    assert min(values["mahalanobis on noise"]["auroc"]) > 0.8
    content = json.loads((tmp_path / "report" / "report.json").read_text())
    assert content["values"] == values and len(content["claims"]) == 7
    assert content["samples"] == {"known": 288, "left out": 354, "noise": 50}
    page = (tmp_path / "report" / "report.md").read_text()
    assert "| knn | noise |" in page and "288 test samples of the classes that were trained on" in page
    assert (tmp_path / "report" / "auroc.png").exists()


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["out_of_distribution.seeds=[]"], "out_of_distribution: no seeds or no scores came"),
        (
            ["out_of_distribution.scores.msp._target_=lightning_losses.losses.KD"],
            "out_of_distribution.scores.msp: a KD came that is no score or needs tuning",
        ),
        (
            ["+out_of_distribution.scores.mahalanobis.combination=logistic"],
            "out_of_distribution.scores.mahalanobis: a MahalanobisDetector came that is no score or needs tuning",
        ),
        (["out_of_distribution.claims.0.differences.0.run=energy"], "claims: there is no run 'energy'"),
        (
            ["+data.foreign.known={_target_: lightning_losses.data.Digits}"],
            "data.foreign.known: the report has another",
        ),
        (["data.left_out=[]", "data.noise_rows=0", "data.num_classes=10"], "data: no foreign set came"),
    ],
    ids=["seeds", "score", "tuning", "claim", "name", "no set"],
)
def test_what_does_not_fit_is_refused_before_anything_is_trained(overrides, told):
    with pytest.raises(ConfigError, match=told):
        rehearse(composed(*SHORT, *overrides))


def test_data_without_foreign_sets_are_refused():
    with pytest.raises(ConfigError, match="data of digits came, which have no foreign sets; take data=known_mnist5k"):
        rehearse(composed("experiment=out_of_distribution", "data=digits", "model.width=4"))


def test_a_layer_that_the_network_lacks_is_told_before_anything_is_trained():
    with pytest.raises(ValueError, match=r"react: \['body'\] came, but SmallCNN has no such layers"):
        rehearse(composed(*SHORT, "out_of_distribution.layer=body"))
