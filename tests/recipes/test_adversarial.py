"""What is left under attack: what is trained, attacked, measured and claimed, in short runs."""

import json

import pytest
import torch
from torch import nn

from lightning_losses.attacks import CWL2
from lightning_losses.diagnostics.attacked_accuracy import within_distance
from lightning_losses.experiments.config.check_config import ConfigError
from lightning_losses.experiments.kinds.adversarial import ATTACKED_METRICS
from tests.recipes.conftest import composed, rehearse, train

SHORT = [
    *(
        "experiment=adversarial",
        "data=digits",
        "model.width=4",
        "trainer.max_epochs=1",
        "trainer.limit_train_batches=4",
    ),
    *("trainer.check_val_every_n_epoch=1", "trainer.limit_val_batches=1", "trainer.enable_progress_bar=false"),
    *("adversarial.seeds=[0]", "adversarial.members=3", "adversarial.test_rows=24", "adversarial.attack.steps=2"),
    *("adversarial.attacks.pma.steps=4", "adversarial.attacks.cw.steps=5", "adversarial.draws=2"),
]
ROWS = ["ce", "adversarial_ce", "trades", "mart", "dro_instance_reweighting", "ensemble", "crossmax"]


def test_every_row_is_attacked_and_told_of(tmp_path, cache):
    values = train(composed(*SHORT, "objective=adversarial_dro", f"cache={cache}"), tmp_path)
    assert list(values) == ROWS
    for numbers in values.values():
        assert tuple(sorted(numbers)) == tuple(sorted(ATTACKED_METRICS))
        one = {metric: value for metric, (value,) in numbers.items()}
        assert one["worst_accuracy"] <= min(one["accuracy"], one["pgd_accuracy"], one["pma_accuracy"])
        assert 0 <= one["tail_accuracy"] <= one["worst_accuracy"] <= 1
    assert len({str(numbers) for numbers in values.values()}) == len(ROWS)
    content = json.loads((tmp_path / "report" / "report.json").read_text())
    # Of one seed no claim can be judged.
    assert content["values"] == values and len(content["claims"]) == 5
    page = (tmp_path / "report" / "report.md").read_text()
    assert "| crossmax |" in page and "on the mean of its 3 members" in page and "and never saw it." in page
    assert (tmp_path / "report" / "attacked.png").exists()


def test_a_change_beyond_the_distance_is_no_attack():
    network = nn.Linear(2, 2, bias=False)
    network.weight.data = torch.eye(2)
    # The decision lies 0.1 / sqrt(2) and 0.6 / sqrt(2) away; in units of the data it is half of that.
    inputs, target = torch.tensor([[0.5, 0.4], [0.9, 0.3]]), torch.tensor([0, 0])
    attack = CWL2(c=10.0, steps=200, mean=(0.0,), std=(0.5,))
    attacked = within_distance(attack, 0.1)(network, inputs, target, None)
    assert torch.equal(attacked[1], inputs[1]) and not torch.equal(attacked[0], inputs[0])
    assert (0.5 * (attacked - inputs)).norm(dim=1).max() <= 0.1
    assert not torch.equal(within_distance(attack, 1.0)(network, inputs, target, None)[1], inputs[1])


@pytest.mark.parametrize(
    ("words", "left", "kind"),
    [
        (["experiment=adversarial", "attack@adversarial.attacks.pgd=pma"], "adversarial.attacks.pgd.step_size", "PMA"),
        (["experiment=adversarial_training", "attack=cw_l2"], "attack.epsilon", "CWL2"),
    ],
)
def test_what_is_set_of_an_attack_is_left_out_for_another_kind(words, left, kind):
    with pytest.raises(ConfigError) as refusal:
        composed(*words)
    told = str(refusal.value)
    assert told.startswith(f"{left}: {kind} takes no ") and told.endswith(f". Leave it out by ~{left}.")
    composed(*words, f"~{left}")


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("adversarial.seeds=[]", "adversarial: no seeds came; give at least one."),
        ("adversarial.k=4", "adversarial: k=4 came with members=3; give a k of at least 2"),
        ("+adversarial.attack_of.trade={steps: 3}", "adversarial.attack_of: there is no objective 'trade'"),
        ("~adversarial.attacks.cw", "adversarial.attacks: pgd, pma came; give pgd"),
        ("adversarial.claims.0.differences.0.metric=nll", "claims: there is no metric 'nll'"),
    ],
    ids=["seeds", "k", "objective", "attacks", "claim"],
)
def test_what_does_not_fit_is_refused_before_anything_is_trained(override, told):
    with pytest.raises(ConfigError) as caught:
        rehearse(composed(*SHORT, override))
    assert str(caught.value).startswith(told)


@pytest.mark.parametrize(
    "words",
    [
        ["experiment=adversarial_training", "objective=trades", "attack.loss=kl_divergence", "attack.steps=2"],
        ["experiment=classify", "objective=ce", "callbacks=robust_accuracy"],
    ],
    ids=["trained", "watched"],
)
def test_one_network_is_watched_under_attack(tmp_path, words):
    watched = [f"callbacks.robust_accuracy.{setting}" for setting in ("every_n_epochs=1", "max_batches=1", "draws=1")]
    options = ["data=digits", "model.width=4", "trainer.max_epochs=1", "trainer.limit_train_batches=2"]
    train(composed(*words, *options, *watched, "trainer.enable_progress_bar=false"), tmp_path)
    assert (tmp_path / "report" / "robust_accuracy.png").exists()
