"""Every callback with a state: a run that resumes midway ends with the state of an uninterrupted one."""

import importlib
import pkgutil

import lightning as L
import pytest
import torch
from torch.utils._pytree import tree_leaves

from lightning_losses import callbacks, checkpoints
from lightning_losses.callbacks.declared import DeclaredCallback
from lightning_losses.callbacks.interventions.grokfast import Grokfast
from lightning_losses.callbacks.interventions.numerics_guard import NumericsGuard
from lightning_losses.callbacks.interventions.weight_norm_projection import WeightNormProjection
from lightning_losses.callbacks.monitors.empirical_ntk import EmpiricalNTK
from lightning_losses.callbacks.monitors.grokking_monitor import GrokkingMonitor
from lightning_losses.callbacks.monitors.hessian_spectrum import HessianSpectrum
from lightning_losses.callbacks.monitors.linear_mode_connectivity import LinearModeConnectivity
from lightning_losses.callbacks.monitors.mixup_configuration import MixupConfiguration
from lightning_losses.callbacks.monitors.monitor import Monitor
from lightning_losses.callbacks.monitors.neural_collapse import NeuralCollapse
from lightning_losses.callbacks.monitors.nlm_cosine import NLMCosine
from lightning_losses.callbacks.monitors.opposing_signals import OpposingSignals
from lightning_losses.callbacks.monitors.probe import ProbeMonitor
from lightning_losses.callbacks.monitors.softmax_collapse import SoftmaxCollapse
from lightning_losses.callbacks.monitors.zero_gradients import ZeroGradients
from tests.callbacks.training import PerProcess, Tiny, batches, trainer

# Those that need another module, and the file of the test that resumes it.
ELSEWHERE = {
    "AdaptiveNoise": "tests/callbacks/interventions/test_adaptive_noise.py",
    "ClassCentroids": "tests/recipes/test_kill.py",
    "ClassCounts": "tests/callbacks/companions/test_class_counts.py",
    "CyclicalSGMCMC": "tests/callbacks/interventions/test_cyclical_sgmcmc.py",
    "DynamicEMA": "tests/callbacks/interventions/test_dynamic_ema.py",
    "DomainWeights": "tests/callbacks/companions/test_domain_weights.py",
    "History": "tests/recipes/test_resume.py",
    "LastCheckpoint": "tests/checkpoints/test_last_checkpoint.py",
    "LearningRateSensitivity": "tests/callbacks/monitors/test_learning_rate_sensitivity.py",
    # It asks how long training is, which the test below changes.
    "RestartOptimizer": "tests/callbacks/interventions/test_restart_optimizer.py",
    "NGAMEClusters": "tests/callbacks/companions/test_ngame_clusters.py",
    "SWAG": "tests/callbacks/interventions/test_swag.py",
    "SurrogateGradientNorm": "tests/callbacks/interventions/test_second_gradient.py",
    "TestTimeAdaptation": "tests/callbacks/interventions/test_test_time_adaptation.py",
}


def watching():
    """Their samples are fewer than a batch has, their steps don't end with the epoch's 6."""
    common = {"every_n_steps": 4, "samples": 7}
    return [
        GrokkingMonitor("loss"), SoftmaxCollapse(every_n_steps=4), NLMCosine(every_n_steps=4),
        ZeroGradients(every_n_steps=4), NeuralCollapse("network.2"), EmpiricalNTK(**common),
        HessianSpectrum(lanczos_steps=5, trace_probes=2, **common), OpposingSignals(group=2, **common),
        LinearModeConnectivity(points=3, **common), MixupConfiguration("network.2", **common),
        Grokfast("ma", window_size=3), WeightNormProjection(scale=0.8),
    ]  # fmt: skip


def guarded():
    return [NumericsGuard(skip=True, max_consecutive=5)]


class Watched(Tiny):
    def forward(self, inputs):
        return self.network(inputs)

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.training_step(batch, batch_idx)["loss"])


def run(folder, callbacks, epochs, broken=False, ckpt_path=None):
    data = batches()
    if broken:
        data[1][0][0, 0] = torch.nan
    module = Watched()
    fitter = trainer(folder, callbacks, max_epochs=epochs, limit_val_batches=None, num_sanity_val_steps=0)
    fitter.fit(module, PerProcess(data), ckpt_path=ckpt_path)
    return fitter


@pytest.mark.parametrize(("make", "broken"), [(watching, False), (guarded, True)], ids=["watching", "guarded"])
def test_a_resumed_state_is_the_uninterrupted_one(tmp_path, make, broken):
    whole, resumed = make(), make()
    run(tmp_path, whole, 2, broken)
    run(tmp_path, make(), 1, broken).save_checkpoint(tmp_path / "half.ckpt")
    run(tmp_path, resumed, 2, broken, ckpt_path=tmp_path / "half.ckpt")
    for callback, again in zip(whole, resumed, strict=True):
        state, its_state = (tree_leaves(each.state_dict()) for each in (callback, again))
        assert len(state) == len(its_state) > 0
        for left, right in zip(state, its_state, strict=True):
            assert torch.equal(left, right) if isinstance(left, torch.Tensor) else left == right, callback
    if broken:
        # One batch of each epoch.
        assert resumed[0].skipped == 2


def test_no_callback_with_a_state_is_forgotten():
    modules = [
        importlib.import_module(found.name)
        for package in (callbacks, checkpoints)
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    ]
    stateful = {
        kind.__name__
        for module in modules
        for kind in vars(module).values()
        if isinstance(kind, type)
        and issubclass(kind, L.Callback)
        and kind.__module__ == module.__name__
        and ("state_dict" in vars(kind) or vars(kind).get("kept"))
    }
    here = {type(callback).__name__ for callback in [*watching(), *guarded()]}
    assert stateful - {DeclaredCallback.__name__, Monitor.__name__, ProbeMonitor.__name__} - here == set(ELSEWHERE)
