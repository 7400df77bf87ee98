"""The share of gradients that are exactly 0: in a trainer, on shards, after collapse."""

import lightning as L
import pytest
import torch
from torch import nn

from lightning_losses.callbacks.interventions.orthogonal_gradient import OrthogonalGradient
from lightning_losses.callbacks.monitors.zero_gradients import ZeroGradients
from tests.callbacks.training import PerProcess, Tiny, batches, train, trainer


class Relu(Tiny):
    """Some units of its hidden layer never fire: their weights have no gradient."""

    def __init__(self, optimizer=None):
        super().__init__()
        self.network[1] = nn.ReLU()
        with torch.no_grad():
            self.network[0].weight[:3] = 0
            self.network[0].bias[:3] = -1

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def test_units_that_never_fire_have_none(tmp_path):
    monitor = ZeroGradients(every_n_steps=2, folder=tmp_path)
    trainer(tmp_path, [monitor]).fit(Relu(), PerProcess(batches()))
    # 3 of 7 units: their rows of the first weight and bias, and their columns of the second weight.
    for name in ("network.0.weight", "network.0.bias", "network.2.weight"):
        assert monitor.values[name] == pytest.approx([3 / 7] * 3)
    assert monitor.values["network.2.bias"] == [0, 0, 0]
    assert monitor.values["all"] == pytest.approx([(3 * 5 + 3 + 3 * 3) / 66] * 3)
    assert (tmp_path / "zero_gradients.png").stat().st_size > 10_000


def test_a_collapsed_softmax_leaves_no_gradient(tmp_path):
    class Certain(Tiny):
        def training_step(self, batch, batch_idx):
            inputs, _ = batch
            logits = self.network(inputs)
            # A gap of 40 rounds off in float32.
            target = torch.zeros(len(inputs), dtype=torch.int64)
            shifted = logits + 40 * torch.eye(3)[target]
            loss = nn.functional.cross_entropy(shifted, target)
            return {"loss": loss, "logits": shifted, "target": target}

    monitor = ZeroGradients(every_n_steps=3)
    trainer(tmp_path, [monitor]).fit(Certain(), PerProcess(batches()))
    # The right class's gradients are 0; those of the other classes are too small to matter, and not 0.
    assert monitor.values["network.2.bias"] == pytest.approx([1 / 3, 1 / 3])


@pytest.mark.distributed
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_processes_agree_with_one(tmp_path, monkeypatch, strategy):
    monkeypatch.setattr("tests.callbacks.training.Tiny", Relu)

    def make():
        class Keep(ZeroGradients):
            def on_fit_end(self, trainer, module):
                torch.save(self.values, tmp_path / f"values{trainer.global_rank}.pt")

        return [Keep(every_n_steps=2)]

    train(tmp_path, make)
    alone = torch.load(tmp_path / "values0.pt")
    train(tmp_path, make, strategy=strategy)
    for rank in (0, 1):
        found = torch.load(tmp_path / f"values{rank}.pt")
        assert found.keys() == alone.keys()
        for name, values in alone.items():
            assert found[name] == pytest.approx(values)


def test_a_place_behind_an_intervention_is_refused(tmp_path):
    callbacks: list[L.Callback] = [OrthogonalGradient(), ZeroGradients()]
    with pytest.raises(ValueError, match="comes after OrthogonalGradient"):
        trainer(tmp_path, callbacks).fit(Relu(), PerProcess(batches()))
