"""How networks adapt to a stream of corruptions: what is trained, measured and claimed, in short runs."""

import json

import pytest

from lightning_losses.experiments.kinds.plpd import SCORES
from lightning_losses.experiments.kinds.test_time import TEST_TIME_METRICS
from tests.recipes.conftest import composed, rehearse, train

SHORT = [
    *("trainer.max_epochs=1", "trainer.check_val_every_n_epoch=1", "trainer.limit_train_batches=4"),
    *("trainer.enable_progress_bar=false", "data.test_fraction=0.008", "data.corruptions=[contrast,gaussian_noise]"),
    *("data.stream_batch_size=20", "model.width=4", "model.depth=1", "test_time.rounds=2"),
    *("test_time.source_batches=1", "test_time.seeds=[1]"),
]


def test_every_method_meets_the_stream(tmp_path, cache):
    values = train(composed("experiment=test_time", *SHORT, f"cache={cache}"), tmp_path)
    methods = ["none", "statistics", "tent_slow", "tent", "sar", "eata", "deyo", "robust_mean_teacher"]
    assert list(values) == methods
    assert all(len(numbers[metric]) == 1 for numbers in values.values() for metric in TEST_TIME_METRICS)
    content = json.loads((tmp_path / "report" / "report.json").read_text())
    assert content["values"] == values and len(content["claims"]) == 7
    # A seed, two rounds, two corruptions of 40 images each.
    errors = content["errors"]
    assert all(len(errors[name][0]) == 2 and len(errors[name][0][0]) == 2 for name in methods)
    first, last = errors["tent"][0]
    assert values["tent"]["stream_error"] == [pytest.approx(sum(first + last) / 4)]
    assert values["tent"]["error_growth"] == [pytest.approx((sum(last) - sum(first)) / 2)]
    # What does not adapt, errs alike in every round.
    assert values["none"]["error_growth"] == values["statistics"]["error_growth"] == [0.0]
    page = (tmp_path / "report" / "report.md").read_text()
    assert "| robust_mean_teacher |" in page and "80 images, 20 at once, at severity 5, 2 rounds of it" in page
    assert (tmp_path / "report" / "errors.png").exists()


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("test_time.seeds=[]", "test_time: no seeds or no methods came"),
        ("data=digits", "test_time: data=digits came; give data=corrupted_mnist5k"),
        ("test_time.claims.0.differences.0.metric=loss", "claims: there is no metric 'loss'"),
        ("+test_time.methods.tent.method.include=[nothing]", "tent: the pattern 'nothing' matches none"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_trained(override, told):
    own = [] if override.startswith("data=") else SHORT
    with pytest.raises(ValueError) as caught:
        rehearse(composed("experiment=test_time", *own, override))
    assert str(caught.value).startswith(told)


def test_scores_tell_right_from_wrong(tmp_path, cache):
    short = [*("trainer.max_epochs=1", "trainer.limit_train_batches=4", "trainer.check_val_every_n_epoch=1")]
    options = [*short, "trainer.enable_progress_bar=false", "model.width=4", "plpd.seeds=[1]", f"cache={cache}"]
    values = train(composed("experiment=plpd", *options), tmp_path)
    assert list(values) == list(SCORES)
    content = json.loads((tmp_path / "report" / "report.json").read_text())
    assert len(content["claims"]) == 2 and len(content["accuracy"]) == 1
    assert all(0 <= numbers["auroc"][0] <= 1 for numbers in values.values())
    assert len({numbers["auroc"][0] for numbers in values.values()}) == len(SCORES)
    assert (tmp_path / "report" / "auroc.png").exists()
    with pytest.raises(ValueError, match="plpd: no seeds came"):
        rehearse(composed("experiment=plpd", "plpd.seeds=[]"))
