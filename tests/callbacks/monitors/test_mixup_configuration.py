"""Mixtures in the plane of three classes: a linear network's closed form, going on, disturbing nothing, refusals."""

import pytest
import torch
from torch import nn

from lightning_losses.callbacks.monitors.mixup_configuration import MixupConfiguration, classifier_plane
from tests.callbacks.training import PerProcess, Tiny, batches, trainer


class Called(Tiny):
    def forward(self, inputs):
        return self.network(inputs)


def data():
    return batches(count=4, size=30)


def fit(folder, callbacks, module=None, epochs=2, **options):
    fitter, module = trainer(folder, callbacks, max_epochs=epochs), module or Called()
    fitter.fit(module, PerProcess(data()), **options)
    return fitter, module


def test_a_plane_keeps_the_rows_distances():
    rows = torch.randn(3, 6, dtype=torch.float64)
    plane = classifier_plane(rows)
    torch.testing.assert_close(plane.T @ plane, torch.eye(2, dtype=torch.float64))
    torch.testing.assert_close(torch.cdist(rows @ plane, rows @ plane), torch.cdist(rows, rows))


def test_features_that_are_the_class_lie_on_the_lines(tmp_path):
    class OneHot(Called):
        """Linear features of equal inputs: mixing them moves along straight lines."""

        def __init__(self):
            super().__init__()
            self.network = nn.Sequential(nn.Linear(3, 7, bias=False), nn.Linear(7, 3))

    target = torch.arange(30) % 3
    monitor = MixupConfiguration("network.1", every_n_steps=1)
    pairs = [(torch.eye(3)[target], target)]
    trainer(tmp_path, [monitor]).fit(OneHot(), PerProcess(pairs))
    assert monitor.values["same"] == pytest.approx([0], abs=1e-10)
    assert monitor.values["different"] == pytest.approx([0], abs=1e-10)


def test_it_sees_scatter_disturbs_nothing_goes_on_and_draws(tmp_path):
    whole = MixupConfiguration("network.2", every_n_steps=2, folder=tmp_path)
    (_, module), (_, alone) = fit(tmp_path, [whole]), fit(tmp_path, [])
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), alone.parameters(), strict=True))
    # Labels are random: samples of a class are as far apart as any.
    assert min(whole.values["same"]) > 0.1 and whole.steps == [0, 2, 4, 6]
    fitter, _ = fit(tmp_path, [MixupConfiguration("network.2", every_n_steps=2)], epochs=1)
    fitter.save_checkpoint(tmp_path / "half.ckpt")
    resumed = MixupConfiguration("network.2", every_n_steps=2)
    fit(tmp_path, [resumed], ckpt_path=tmp_path / "half.ckpt")
    assert resumed.values == whole.values and torch.equal(resumed.points, whole.points)
    assert (tmp_path / "mixup_configuration.png").stat().st_size > 10_000


def test_what_can_not_be_mixed_is_refused(tmp_path):
    with pytest.raises(ValueError, match="three different"):
        MixupConfiguration("network.2", classes=[0, 1, 1])
    with pytest.raises(ValueError, match="no linear layer"):
        fit(tmp_path, [MixupConfiguration("network.1")])
    with pytest.raises(ValueError, match="a floating-point target came, and samples of one class each are mixed"):
        MixupConfiguration("network.2").measure(None, Called(), torch.ones(3, 5), torch.eye(3))
    with pytest.raises(ValueError, match="too few to mix"):
        fit(tmp_path, [MixupConfiguration("network.2", samples=2)])
