"""The monitors of layers, logits and single samples: what they measure, and that they disturb nothing."""

import math

import lightning as L
import pytest
import torch
import torch.nn.functional as F

from lightning_losses.callbacks.monitors.diffusion_spectral_entropy import DiffusionSpectralEntropy
from lightning_losses.callbacks.monitors.empirical_ntk import EmpiricalNTK
from lightning_losses.callbacks.monitors.hessian_spectrum import HessianSpectrum
from lightning_losses.callbacks.monitors.information_plane import InformationPlane
from lightning_losses.callbacks.monitors.mixup_configuration import MixupConfiguration
from lightning_losses.callbacks.monitors.opposing_signals import OpposingSignals, opposing_signals
from lightning_losses.callbacks.monitors.output_logits import OutputLogits
from lightning_losses.callbacks.monitors.probe import first_rows
from lightning_losses.diagnostics.diffusion_spectral_entropy import diffusion_spectral_entropy
from lightning_losses.diagnostics.mutual_information import adaptive_bins, binned_information, kde_information
from tests.callbacks.training import PerProcess, Tiny, batches, network, train, trainer

LAYERS = ["network.1", "network.2"]


class Called(Tiny):
    def forward(self, inputs):
        return self.network(inputs)


def monitors(folder=None):
    common = {"every_n_steps": 3, "folder": folder}
    return [
        OutputLogits(**common),
        InformationPlane(LAYERS, bins=4, **common),
        DiffusionSpectralEntropy(LAYERS, bandwidth=1.0, **common),
        OpposingSignals(group=2, **common),
    ]


def fit(folder, callbacks, epochs=2, ckpt_path=None):
    module, fitter = Called(), trainer(folder, callbacks, max_epochs=epochs)
    fitter.fit(module, PerProcess(batches()), ckpt_path=ckpt_path)
    return fitter, module


def test_the_first_measurement_is_of_the_first_weights(tmp_path):
    logits_monitor, plane, spectral, opposing = watching = monitors()
    fit(tmp_path, watching)
    (inputs, target), module = batches()[0], network()
    with torch.no_grad():
        hidden, logits = module[:2](inputs), module(inputs)
    normaliser = torch.logsumexp(logits, dim=-1).mean().item()
    assert logits_monitor.values["log_normaliser"][0] == pytest.approx(normaliser, rel=1e-6)
    assert logits_monitor.values["largest"][0] == pytest.approx(logits.amax(-1).mean().item(), rel=1e-6)
    low = float(hidden.min()) - 1e-6
    found = binned_information(adaptive_bins(hidden, 4, low), target)
    assert plane.values["network.1/label"][0] == pytest.approx(found.label)
    assert plane.values["network.1/input"][0] == pytest.approx(found.input)
    entropy = diffusion_spectral_entropy(hidden, bandwidth=1.0)
    assert spectral.values["network.1/entropy"][0] == pytest.approx(entropy)
    assert opposing.values["score"][0] == 0 < opposing.values["score"][1]


@pytest.mark.parametrize("estimator", ["kernel", "neighbours"])
def test_other_estimators(tmp_path, estimator):
    plane = InformationPlane(["network.1"], estimator=estimator, noise=0.3, every_n_steps=3)
    _, _ = fit(tmp_path, [plane], epochs=1)
    if estimator == "kernel":
        inputs, target = batches()[0]
        with torch.no_grad():
            found = kde_information(network()[:2](inputs), target, 0.09)
        assert plane.values["network.1/label"][0] == pytest.approx(found.label, rel=1e-5)
    assert all(len(values) == 2 for values in plane.values.values())


def test_they_disturb_nothing_go_on_and_draw(tmp_path):
    whole = monitors(tmp_path)
    (_, module), (_, alone) = fit(tmp_path, whole), fit(tmp_path, [])
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), alone.parameters(), strict=True))
    fitter, _ = fit(tmp_path, monitors(), epochs=1)
    fitter.save_checkpoint(tmp_path / "half.ckpt")
    resumed = monitors()
    fit(tmp_path, resumed, ckpt_path=tmp_path / "half.ckpt")
    for left, right in zip(resumed, whole, strict=True):
        assert left.values == right.values and left.steps == right.steps == [0, 3, 6, 9]
        assert (tmp_path / f"{right.name}.png").stat().st_size > 10_000


class Neighbours(InformationPlane):
    """One more of its kind in the same trainer."""


def probing(folder):
    """The monitors of a probe, and what keeps their values and probes, by process."""

    def make():
        class Keep(L.Callback):
            def on_fit_end(self, trainer, module):
                states = [(monitor.probe, monitor.values) for monitor in watching]
                torch.save(states, folder / f"states{trainer.global_rank}.pt")

        # Fewer rows than a batch has: the first ones are those of both processes.
        common = {"every_n_steps": 3, "samples": 7}
        watching = [
            EmpiricalNTK(**common),
            InformationPlane(LAYERS, bins=4, **common),
            Neighbours(["network.1"], estimator="neighbours", noise=0.3, **common),
            DiffusionSpectralEntropy(LAYERS, bandwidth=1.0, **common),
            OpposingSignals(group=2, **common),
            HessianSpectrum(lanczos_steps=5, trace_probes=3, **common),
            MixupConfiguration("network.2", **common),
        ]
        return [*watching, Keep()]

    return make


@pytest.mark.distributed
def test_processes_probe_the_rows_that_one_would(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.callbacks.training.Tiny", Called)
    train(tmp_path, probing(tmp_path))
    alone = torch.load(tmp_path / "states0.pt")
    train(tmp_path, probing(tmp_path), strategy="ddp")
    for rank in (0, 1):
        for (probe, values), (same, found) in zip(alone, torch.load(tmp_path / f"states{rank}.pt"), strict=True):
            assert all(torch.equal(*pair) for pair in zip(probe, same, strict=True))
            assert len(same[1]) == 7 and values.keys() == found.keys()
            for name, value in values.items():
                # Weights after averaged gradients differ in their last bits, and a Hessian's product amplifies them. Of
                # classes of so few rows, nearest neighbours tell nothing.
                unknown = name == "network.1/label"
                assert found[name] == pytest.approx(value, rel=1e-3, abs=1e-4, nan_ok=unknown)


@pytest.mark.parametrize("samples", [1, 5, 8, 20])
def test_a_probe_is_the_first_rows_that_there_are(samples):
    inputs, target = torch.arange(8.0).reshape(8, 1), torch.arange(8)
    assert torch.equal(first_rows(inputs, target, samples)[1], target[:samples])


def test_planted_groups_are_found_first():
    # A large feature that two outlier groups share with opposite labels: a step along it helps one and hurts the other.
    torch.manual_seed(0)
    inputs, target = torch.randn(200, 5), torch.randint(2, (200,))
    inputs[:10, 0], target[:5], target[5:10] = 30.0, 0, 1
    weight = torch.zeros(5, 2)
    moved = weight.clone()
    moved[0, 0] += 0.05

    def losses(w):
        return F.cross_entropy(inputs @ w, target, reduction="none")

    found = opposing_signals(losses(weight), losses(moved), samples=5)
    assert set(found.falling.tolist()) == set(range(5)) and set(found.rising.tolist()) == set(range(5, 10))
    assert found.score > 10


def test_losses_that_stay_oppose_nothing():
    losses = torch.rand(10)
    assert opposing_signals(losses, losses).score == 0


def test_where_activations_lie_makes_no_difference_to_their_bins():
    """A float32 of -103 has nothing a millionth below it."""
    activity = torch.randint(-3, 4, (60, 2), generator=torch.Generator().manual_seed(0)).float()
    plane, target = InformationPlane(LAYERS, bins=4), torch.arange(60) % 3
    assert plane._estimate(activity - 100, target) == plane._estimate(activity - 0.5, target)


@pytest.mark.parametrize("make", [InformationPlane, DiffusionSpectralEntropy])
def test_layers_that_are_not_there_are_refused(tmp_path, make):
    with pytest.raises(ValueError, match=r"network\.9"):
        fit(tmp_path, [make(["network.9"])])
    with pytest.raises(ValueError, match="list of module names"):
        make("network.1")


def test_a_batch_of_another_kind_is_refused(tmp_path):
    class Single(PerProcess):
        def _loader(self):
            return torch.utils.data.DataLoader([[1, 2]], batch_size=None)

    with pytest.raises(ValueError, match="a pair"):
        trainer(tmp_path, [OpposingSignals()]).fit(Called(), Single(batches()))


@pytest.mark.parametrize("estimator", ["bins", "kernel", "neighbours"])
def test_a_layer_that_diverged_has_no_information(estimator):
    plane = InformationPlane(["network.1"], estimator=estimator)
    activity = torch.rand(8, 3).index_fill(0, torch.tensor([2]), torch.nan)
    assert all(math.isnan(value) for value in plane.measure_layer(activity, torch.arange(8) % 2).values())


def test_losses_that_are_nan_are_in_no_order():
    monitor, target = OpposingSignals(group=1), torch.tensor([0, 1])
    measured = [monitor.measure(None, lambda inputs: inputs, torch.full((2, 2), torch.nan), target) for _ in range(3)]
    assert all(math.isnan(value) for value in measured[2].values())
