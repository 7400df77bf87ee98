"""Sparse autoencoders of a classifier's hidden states, on digits: what is trained, measured and claimed."""

import json

import pytest

from lightning_losses.experiments.config.check_config import ConfigError
from lightning_losses.experiments.kinds.sparse_codes import CODE_METRICS
from tests.recipes.conftest import composed, rehearse, train

SHORT = [
    *("data=digits", "model=small_cnn", "model.width=2", "trainer.max_epochs=1", "trainer.check_val_every_n_epoch=1"),
    *("trainer.limit_train_batches=3", "trainer.enable_progress_bar=false", "sparse_codes.seeds=[0,1]"),
    *("sparse_codes.latents=12", "sparse_codes.k=3", "sparse_codes.epochs=2"),
]


def test_each_choice_is_measured_on_every_seed_and_claims_are_judged(tmp_path):
    values = train(composed("experiment=sparse_autoencoder", *SHORT), tmp_path)
    assert list(values) == ["token", "feature", "mutual"]
    assert all(len(numbers[metric]) == 2 for numbers in values.values() for metric in CODE_METRICS)
    assert len({str(numbers) for numbers in values.values()}) == 3
    assert all(0 <= share < 1 for numbers in values.values() for share in numbers["dead_share"])
    assert all(0 < left < 1 for numbers in values.values() for left in numbers["unexplained_variance"])
    assert all(1 < used <= 3 for used in values["token"]["latents_per_sample"])
    content = json.loads((tmp_path / "report" / "report.json").read_text())
    assert content["values"] == values
    assert [len(claim["lines"]) for claim in content["claims"]] == [2, 2]
    page = (tmp_path / "report" / "report.md").read_text()
    assert "| mutual |" in page and "12 latents explain hidden states of width 8, 3 of them a sample" in page
    assert (tmp_path / "report" / "codes.png").exists()


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("sparse_codes.choices=[]", "sparse_codes: no seeds or no choices came; give at least one of each."),
        ("sparse_codes.claims.0.differences.0.metric=dead", "claims: there is no metric 'dead'"),
    ],
    ids=["choices", "claim"],
)
def test_what_does_not_fit_is_refused_before_anything_is_trained(override, told):
    with pytest.raises(ConfigError) as caught:
        rehearse(composed("experiment=sparse_autoencoder", *SHORT, override))
    assert str(caught.value).startswith(told)
