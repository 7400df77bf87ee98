"""experiment=decode: kNN-LM's loss and Mirostat's surprise on the standard library's text."""

import json
import math

import pytest

from lightning_losses.experiments.config.check_config import ConfigError
from tests.recipes.conftest import composed, rehearse, train

SHORT = [
    *("trainer.max_epochs=1", "trainer.limit_train_batches=3", "trainer.limit_val_batches=1"),
    *("trainer.enable_progress_bar=false", "data.max_bytes=100000", "data.block_length=32", "data.batch_size=4"),
    *("model.width=16", "model.depth=1", "decode.datastore_blocks=20", "decode.test_blocks=5", "decode.neighbours=8"),
    *("decode.sequences=4", "decode.prompt_length=8", "decode.new_tokens=12", "decode.targets=[2.0,6.5]"),
]


def test_losses_and_surprises_are_reported_with_their_intervals(tmp_path):
    report = train(composed("experiment=decode", *SHORT), tmp_path)
    content = json.loads((tmp_path / "report" / "report.json").read_text())
    assert content["keys"] == 20 * 32
    assert [surprise["target"] for surprise in content["surprises"]] == [None, 2.0, 6.5, 2.0, 6.5]
    for interval in (content["alone"], content["text"], *content["losses"].values(), *content["surprises"]):
        assert interval["low"] < interval["mean"] < interval["high"]
    for weight, difference in content["differences"].items():
        assert difference["mean"] == pytest.approx(content["losses"][weight]["mean"] - content["alone"]["mean"])
    # Of a network that knows nothing yet, neighbours know more.
    assert report.scores()["test/knn_nats_per_byte"] < report.scores()["test/nats_per_byte"] < math.log(256) + 0.1
    page = (tmp_path / "report" / "report.md").read_text()
    assert "| network alone |" in page and "| mirostat v2 | 6.5 |" in page
    assert (tmp_path / "report" / "decoding.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert content["pictures"] == ["decoding.png", "losses.png"]


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("decode.new_tokens=30", "decode.new_tokens=30: with prompts of 8 they exceed blocks of data.block_length=32"),
        ("decode.targets=[]", "decode.targets: none came; give at least one."),
        ("decode.targets=[-1.0]", "decode.targets: mirostat: target_surprise=-1.0 came; give a number above 0."),
        ("decode.weights=[1.5]", "decode.weights=[1.5]: give numbers from 0 to 1."),
        ("decode.temperatures=[0.0]", "decode.temperatures=[0.0]: give numbers above 0."),
        ("decode.test_blocks=0", "decode.test_blocks=0: give at least 1."),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_trained(override, told):
    with pytest.raises(ConfigError) as caught:
        rehearse(composed("experiment=decode", *SHORT, override))
    assert str(caught.value).startswith(told)
