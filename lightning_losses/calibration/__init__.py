"""Post-hoc calibrators: modules with `fit(logits, target)` and `forward(logits)`."""

from lightning_losses.calibration.base import Calibrator
from lightning_losses.calibration.bayesian_binning import BayesianBinning
from lightning_losses.calibration.beta_calibration import BetaCalibration
from lightning_losses.calibration.calibrated_model import CalibratedModel
from lightning_losses.calibration.correctness_aware_calibrator import CorrectnessAwareCalibrator
from lightning_losses.calibration.dirichlet_calibration import DirichletCalibration
from lightning_losses.calibration.ensemble_temperature_scaling import EnsembleTemperatureScaling
from lightning_losses.calibration.histogram_binning import HistogramBinning
from lightning_losses.calibration.image_views import image_views
from lightning_losses.calibration.isotonic_multiclass import IsotonicMulticlass
from lightning_losses.calibration.isotonic_regression import IsotonicRegression
from lightning_losses.calibration.matrix_scaling import MatrixScaling
from lightning_losses.calibration.platt_scaling import PlattScaling
from lightning_losses.calibration.temperature_scaling import TemperatureScaling
from lightning_losses.calibration.vector_scaling import VectorScaling

__all__ = [
    "BayesianBinning",
    "BetaCalibration",
    "CalibratedModel",
    "Calibrator",
    "CorrectnessAwareCalibrator",
    "DirichletCalibration",
    "EnsembleTemperatureScaling",
    "HistogramBinning",
    "IsotonicMulticlass",
    "IsotonicRegression",
    "MatrixScaling",
    "PlattScaling",
    "TemperatureScaling",
    "VectorScaling",
    "image_views",
]
