"""What a language model forgets and what it gives away: what is trained, measured and claimed, in short runs."""

import json

import pytest

from lightning_losses.experiments.config.check_config import ConfigError
from lightning_losses.experiments.kinds.unlearning import UNLEARNING_METRICS
from tests.recipes.conftest import composed, rehearse, train

SHORT = [
    *("trainer.max_epochs=1", "trainer.check_val_every_n_epoch=1", "trainer.limit_train_batches=3"),
    *("trainer.enable_progress_bar=false", "data.max_bytes=20000", "data.forget_bytes=4000", "data.block_length=32"),
    *("model.width=8", "model.depth=1"),
]
FORGETTING = [*SHORT, "unlearning.seeds=[0]", "unlearning.trainer.max_epochs=2"]


def test_each_objective_unlearns_from_one_model(tmp_path, cache):
    values = train(composed("experiment=unlearning", *FORGETTING, "objective=wga", f"cache={cache}"), tmp_path)
    objectives = ["gradient_ascent", "grad_diff", "npo", "simnpo", "npo_alone", "wga + retain_nll"]
    assert sorted(values) == sorted(["before", "never seen", *objectives])
    assert all(len(numbers[metric]) == 1 for numbers in values.values() for metric in UNLEARNING_METRICS)
    # They differ in what they minimise alone.
    assert len({str(values[name]) for name in objectives}) == len(objectives)
    assert values["gradient_ascent"]["forget_nll"][0] > values["before"]["forget_nll"][0]
    content = json.loads((tmp_path / "report" / "report.json").read_text())
    assert content["values"] == values
    curves = content["curves"]["objectives"]
    assert all(len(curves[name]["val/forget_nll"]) == len(curves[name]["val/retain_nll"]) == 2 for name in objectives)
    # Of one seed no claim can be judged.
    assert len(content["claims"]) == 4
    page = (tmp_path / "report" / "report.md").read_text()
    assert "| npo_alone |" in page and "4,000 bytes of email were trained on and are to be forgotten" in page
    assert (tmp_path / "report" / "forgetting.png").exists()


def test_every_score_audits_the_model(tmp_path, cache):
    audits = train(composed("experiment=audit", *SHORT, f"cache={cache}"), tmp_path)
    assert list(audits) == ["loss", "zlib", "min_k", "min_k_plus_plus", "reference", "dc_pdd"]
    content = json.loads((tmp_path / "report" / "report.json").read_text())
    for name, (blocks, files) in audits.items():
        assert 0 <= float(blocks.auroc) <= 1 and 0 <= float(files.auroc) <= 1
        assert content["audits"][name]["blocks"]["auroc"] == float(blocks.auroc)
    assert len({float(blocks.auroc) for blocks, _ in audits.values()}) > 3
    page = (tmp_path / "report" / "report.md").read_text()
    assert "| Min-K%++ |" in page and "124 blocks of 32 bytes of email" in page
    assert (tmp_path / "report" / "membership.png").exists()


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("unlearning.seeds=[]", "unlearning: no seeds came; give at least one."),
        ("unlearning.claims.0.differences.0.metric=loss", "claims: there is no metric 'loss'"),
    ],
    ids=["seeds", "claim"],
)
def test_what_does_not_fit_is_refused_before_anything_is_trained(override, told):
    with pytest.raises(ConfigError) as caught:
        rehearse(composed("experiment=unlearning", *FORGETTING, override))
    assert str(caught.value).startswith(told)
