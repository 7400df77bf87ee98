"""Metrics of predictions and their confidence: functions, and `torchmetrics.Metric` classes of the same name."""

from lightning_losses.metrics.bootstrap import Interval, bootstrap_interval
from lightning_losses.metrics.brier_score import BrierDecomposition, BrierScore, brier_decomposition, brier_score
from lightning_losses.metrics.calibration_error import CalibrationError, calibration_error
from lightning_losses.metrics.expected_calibration_error import ExpectedCalibrationError, expected_calibration_error
from lightning_losses.metrics.negative_log_likelihood import NegativeLogLikelihood, negative_log_likelihood

__all__ = [
    "BrierDecomposition",
    "BrierScore",
    "CalibrationError",
    "ExpectedCalibrationError",
    "Interval",
    "NegativeLogLikelihood",
    "bootstrap_interval",
    "brier_decomposition",
    "brier_score",
    "calibration_error",
    "expected_calibration_error",
    "negative_log_likelihood",
]
