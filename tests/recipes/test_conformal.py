"""Conformal sets compared over seeds, on digits: what is fitted, measured and claimed."""

import json

import pytest

from lightning_losses.experiments.comparison.shown_numbers import SET_METRICS
from lightning_losses.experiments.config.check_config import ConfigError
from tests.recipes.conftest import composed, rehearse, train

SHORT = [
    "experiment=conformal",
    "data=digits",
    "data.train_rows=null",
    "model=small_cnn",
    "model.width=4",
    "trainer.max_epochs=2",
    "trainer.check_val_every_n_epoch=2",
    "trainer.limit_train_batches=3",
    "trainer.enable_progress_bar=false",
    "conformal.seeds=[0,1]",
]


def test_every_method_is_measured_on_every_seed_and_claims_are_judged(tmp_path):
    values = train(composed(*SHORT, "conformal.alpha=0.2"), tmp_path)
    assert values.keys() == {"lac", "aps", "raps", "lac_classwise"}
    assert all(len(numbers[metric]) == 2 for numbers in values.values() for metric in SET_METRICS)
    # Of 359 rows each, on networks that know next to nothing.
    assert all(0.7 < share < 0.95 for numbers in values.values() for share in numbers["coverage"])
    content = json.loads((tmp_path / "report" / "report.json").read_text())
    assert content["values"]["lac"]["set_size"] == values["lac"]["set_size"]
    assert [len(claim["lines"]) for claim in content["claims"]] == [2, 1, 1]
    page = (tmp_path / "report" / "report.md").read_text()
    assert "80 % were asked for; fitted to 359 validation rows, scored on 359 test rows" in page
    assert "Of sets that cover as often, those of LAC are the smallest." in page
    assert (tmp_path / "report" / "coverage.png").exists()


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("conformal.seeds=[]", "conformal: no seeds or no methods came; give at least one of each."),
        (
            "conformal.methods.lac._target_=lightning_losses.calibrators.TemperatureScaling",
            "conformal.methods.lac: a TemperatureScaling came; give conformal sets, such as LAC.",
        ),
        ("conformal.claims.0.differences.0.metric=sise", "claims: there is no metric 'sise'"),
    ],
    ids=["seeds", "method", "claim"],
)
def test_what_does_not_fit_is_refused_before_anything_is_trained(override, told):
    without = ["~conformal.methods.lac.alpha"] if "TemperatureScaling" in override else []
    with pytest.raises(ConfigError) as caught:
        rehearse(composed(*SHORT, override, *without))
    assert str(caught.value).startswith(told)
