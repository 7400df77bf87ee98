"""The barrier between checkpoints: closed forms, normalised networks, going on, processes, pictures."""

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_losses.callbacks.monitors.linear_mode_connectivity import LinearModeConnectivity, _estimate_statistics
from tests.callbacks.training import PerProcess, Tiny, batches, network, train, trainer


class Called(Tiny):
    def forward(self, inputs):
        return self.network(inputs)


def fit(folder, monitor, module=None, **options):
    fitter, module = trainer(folder, [monitor], max_epochs=options.pop("epochs", 2)), module or Called()
    fitter.fit(module, PerProcess(batches()), **options)
    return fitter, module


def along(earlier, now, points=11):
    inputs, target = batches()[0]
    losses = []
    for place in range(points):
        module = network()
        share = place / (points - 1)
        module.load_state_dict({name: torch.lerp(earlier[name], now[name], share) for name in now})
        losses.append(F.cross_entropy(module(inputs), target).item())
    return losses


@pytest.mark.parametrize("since", ["previous", "start"])
def test_the_line_is_between_the_weights_of_its_steps(tmp_path, since):
    kept = []

    class Keep(L.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            kept.append({name: tensor.clone() for name, tensor in module.network.state_dict().items()})

    monitor = LinearModeConnectivity(since, every_n_steps=3)
    trainer(tmp_path, [monitor, Keep()], max_epochs=2).fit(Called(), PerProcess(batches()))
    assert monitor.steps == [3, 6, 9]
    for step, line, barrier in zip(monitor.steps, monitor.lines, monitor.values["barrier"], strict=True):
        want = along(kept[step - 3 if since == "previous" else 0], kept[step])
        assert line == pytest.approx(want, rel=1e-5)
        straight = [want[0] + (want[-1] - want[0]) * place / 10 for place in range(11)]
        assert barrier == pytest.approx(max(0, *(a - b for a, b in zip(want, straight, strict=True))), abs=1e-6)


def test_a_convex_loss_has_no_barrier(tmp_path):
    class Convex(Called):
        def __init__(self):
            super().__init__()
            self.network = nn.Linear(5, 3)

    monitor = LinearModeConnectivity(every_n_steps=2)
    fit(tmp_path, monitor, Convex())
    assert monitor.values["barrier"] == pytest.approx([0] * 5, abs=1e-6)


def test_statistics_are_those_of_the_rows_and_the_network_stays_in_evaluation():
    inputs = torch.randn(20, 4) * 3 + 1
    module = nn.Sequential(nn.BatchNorm1d(4, momentum=0.1), nn.Dropout(0.5)).eval()
    _estimate_statistics(module, inputs)
    torch.testing.assert_close(module[0].running_mean, inputs.mean(0))
    torch.testing.assert_close(module[0].running_var, inputs.var(0))
    assert module[0].momentum == 0.1 and not any(part.training for part in module.modules())


def test_it_disturbs_nothing_goes_on_and_draws(tmp_path):
    whole = LinearModeConnectivity(every_n_steps=3, folder=tmp_path)
    (_, module), (_, alone) = fit(tmp_path, whole), fit(tmp_path, L.Callback())
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), alone.parameters(), strict=True))
    fitter, _ = fit(tmp_path, LinearModeConnectivity(every_n_steps=3), epochs=1)
    fitter.save_checkpoint(tmp_path / "half.ckpt")
    resumed = LinearModeConnectivity(every_n_steps=3)
    fit(tmp_path, resumed, ckpt_path=tmp_path / "half.ckpt")
    assert resumed.values == whole.values and resumed.steps == whole.steps and resumed.lines == whole.lines
    assert (tmp_path / "linear_mode_connectivity.png").stat().st_size > 10_000


@pytest.mark.distributed
def test_processes_agree_with_one(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.callbacks.training.Tiny", Called)

    def make():
        class Keep(LinearModeConnectivity):
            def on_fit_end(self, trainer, module):
                torch.save(self.lines, tmp_path / f"lines{trainer.global_rank}.pt")

        return [Keep(every_n_steps=3)]

    train(tmp_path, make)
    alone = torch.load(tmp_path / "lines0.pt")
    train(tmp_path, make, strategy="ddp")
    for rank in (0, 1):
        # Averaged gradients differ in their last bits.
        for line, same in zip(alone, torch.load(tmp_path / f"lines{rank}.pt"), strict=True):
            assert same == pytest.approx(line, rel=1e-5)


@pytest.mark.parametrize("wrong", [{"since": "end"}, {"points": 1}, {"every_n_steps": 0}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match="came"):
        LinearModeConnectivity(**wrong)
