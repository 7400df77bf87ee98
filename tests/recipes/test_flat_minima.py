"""What ways to flat minima predict and how sharp they end: what is trained, measured and claimed, in short runs."""

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_losses.data import ImageDataset
from lightning_losses.experiments.config.check_config import ConfigError
from lightning_losses.experiments.kinds.flat_minima import FLAT_METRICS, sharpness
from tests.recipes.conftest import composed, rehearse, train

SHORT = [
    *("trainer.max_epochs=4", "trainer.check_val_every_n_epoch=4", "trainer.enable_progress_bar=false"),
    *("data.rows=300", "data.val_rows=100", "data.test_rows=200", "data.batch_size=50", "model=conv1d"),
    *("flat_minima.hessian_rows=50", "flat_minima.lanczos_steps=4", "flat_minima.samples=3", "flat_minima.seeds=[0]"),
    *("flat_minima.methods.swag.callbacks.swag.start=0.5", "flat_minima.methods.saf.objective.terms.saf.loss.start=1"),
    *(
        f"flat_minima.methods.{loss}"
        for loss in ("saf.objective.terms.saf.loss.lag=1", "mesa.objective.terms.mesa.loss.start=1")
    ),
]


def test_each_method_trains_and_is_measured(tmp_path, cache):
    values = train(composed("experiment=flat_minima", *SHORT, f"cache={cache}"), tmp_path)
    assert list(values) == ["optimizer alone", "sam", "asam", "saf", "mesa", "swag", "swag ensemble"]
    assert all(len(numbers[metric]) == 1 for numbers in values.values() for metric in FLAT_METRICS)
    # All take another way, also SWAG, whose learning rate ends elsewhere.
    assert len({tuple(numbers["train_nll"]) for numbers in values.values()}) == 7
    assert all(0 < numbers["sharpness"][0] < 1e4 for numbers in values.values())
    content = json.loads((tmp_path / "report" / "report.json").read_text())
    assert content["values"] == values
    # Of one seed no claim can be judged.
    assert len(content["claims"]) == 6
    page = (tmp_path / "report" / "report.md").read_text()
    assert "| swag ensemble |" in page and "over 50 training samples" in page
    assert (tmp_path / "report" / "flat_minima.png").exists()


def test_sharpness_is_the_largest_eigenvalue():
    torch.manual_seed(0)
    network = nn.Linear(3, 2).requires_grad_(False)
    inputs, target = torch.randn(20, 3), torch.randint(2, (20,))

    def loss(weight, bias):
        return F.cross_entropy(inputs[:15] @ weight.view(2, 3).T + bias, target[:15])

    def flat(both):
        return loss(both[:6], both[6:])

    both = torch.cat([network.weight.flatten(), network.bias])
    want = torch.linalg.eigvalsh(torch.autograd.functional.hessian(flat, both))[-1]
    got = sharpness(network, ImageDataset(inputs, target), rows=15, steps=8)
    assert got == pytest.approx(want.item(), rel=1e-3)
    assert not network.weight.requires_grad


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("flat_minima.seeds=[]", "flat_minima: no seeds came; give at least one."),
        ("flat_minima.claims.0.differences.0.run=sgd", "claims: there is no run 'sgd'"),
    ],
    ids=["seeds", "claim"],
)
def test_what_does_not_fit_is_refused_before_anything_is_trained(override, told):
    with pytest.raises(ConfigError) as caught:
        rehearse(composed("experiment=flat_minima", *SHORT, override))
    assert str(caught.value).startswith(told)
