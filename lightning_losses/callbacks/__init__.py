"""Callbacks: one file per intervention or monitor."""

import importlib
from typing import Any

from lightning_losses.callbacks.records.history import History
from lightning_losses.callbacks.records.metrics_file import MetricsFile
from lightning_losses.environment.extras import require

__all__ = ["History", "MetricsFile"]

# Lazily: most of them draw, and a recipe that uses none need not load what draws.
_HOME = {
    "AdaFocalBins": "companions.adafocal_bins",
    "CalibrationMonitor": "calibration.calibration_monitor",
    "AttentionLogits": "monitors.attention_logits",
    "ContinualEvaluation": "monitors.continual_evaluation",
    "DiffusionSpectralEntropy": "monitors.diffusion_spectral_entropy",
    "DomainWeights": "companions.domain_weights",
    "EmpiricalNTK": "monitors.empirical_ntk",
    "Grokfast": "interventions.grokfast",
    "GrokkingMonitor": "monitors.grokking_monitor",
    "HessianSpectrum": "monitors.hessian_spectrum",
    "InformationPlane": "monitors.information_plane",
    "LearningRateSensitivity": "monitors.learning_rate_sensitivity",
    "LinearModeConnectivity": "monitors.linear_mode_connectivity",
    "MixupConfiguration": "monitors.mixup_configuration",
    "NLMCosine": "monitors.nlm_cosine",
    "NeuralCollapse": "monitors.neural_collapse",
    "NumericsGuard": "interventions.numerics_guard",
    "OpposingSignals": "monitors.opposing_signals",
    "OrthogonalGradient": "interventions.orthogonal_gradient",
    "OutputLogits": "monitors.output_logits",
    "PostHocCalibration": "calibration.post_hoc_calibration",
    "Progress": "records.progress",
    "SoftmaxCollapse": "monitors.softmax_collapse",
    "WeightNormProjection": "interventions.weight_norm_projection",
    "WeightNorms": "monitors.weight_norms",
    "ZeroGradients": "monitors.zero_gradients",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "Progress":
        require(f"{__name__}.Progress", "rich")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
