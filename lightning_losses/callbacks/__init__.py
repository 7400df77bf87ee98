"""Callbacks: one file per intervention or monitor."""

import importlib
from typing import Any

from lightning_losses.callbacks.records.history import History
from lightning_losses.callbacks.records.metrics_file import MetricsFile
from lightning_losses.checkpoints.epoch_seed import EpochSeed
from lightning_losses.checkpoints.last_checkpoint import LastCheckpoint
from lightning_losses.environment.extras import require

__all__ = ["EpochSeed", "History", "LastCheckpoint", "MetricsFile"]

# Lazily: most of them draw, and a recipe that uses none need not load what draws.
_HOME = {
    "AdaFocalBins": "adafocal_bins",
    "CalibrationMonitor": "calibration_monitor",
    "AttentionLogits": "attention_logits",
    "ContinualEvaluation": "continual_evaluation",
    "DiffusionSpectralEntropy": "diffusion_spectral_entropy",
    "DomainWeights": "domain_weights",
    "EmpiricalNTK": "empirical_ntk",
    "Grokfast": "grokfast",
    "GrokkingMonitor": "grokking_monitor",
    "HessianSpectrum": "hessian_spectrum",
    "InformationPlane": "information_plane",
    "LearningRateSensitivity": "learning_rate_sensitivity",
    "LinearModeConnectivity": "linear_mode_connectivity",
    "MixupConfiguration": "mixup_configuration",
    "NLMCosine": "nlm_cosine",
    "NeuralCollapse": "neural_collapse",
    "NumericsGuard": "numerics_guard",
    "OpposingSignals": "opposing_signals",
    "OrthogonalGradient": "orthogonal_gradient",
    "OutputLogits": "output_logits",
    "PostHocCalibration": "post_hoc_calibration",
    "Progress": "progress",
    "SoftmaxCollapse": "softmax_collapse",
    "WeightNormProjection": "weight_norm_projection",
    "WeightNorms": "weight_norms",
    "ZeroGradients": "zero_gradients",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "Progress":
        require(f"{__name__}.Progress", "rich")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
