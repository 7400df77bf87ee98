"""Post-hoc calibrators: modules with `fit(logits, target)` and `forward(logits)`."""

from lightning_losses.calibration.base import Calibrator
from lightning_losses.calibration.temperature_scaling import TemperatureScaling

__all__ = ["Calibrator", "TemperatureScaling"]
