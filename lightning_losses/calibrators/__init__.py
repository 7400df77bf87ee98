"""Post-hoc calibrators and conformal predictors: modules that are fitted on held-out data."""

from lightning_losses.calibrators.aps import APS
from lightning_losses.calibrators.base import Calibrator
from lightning_losses.calibrators.bayesian_binning import BayesianBinning
from lightning_losses.calibrators.beta_calibration import BetaCalibration
from lightning_losses.calibrators.calibrated_model import CalibratedModel
from lightning_losses.calibrators.conformal_intervals import CQR, SplitConformal
from lightning_losses.calibrators.conformal_quantile import conformal_p_values, conformal_quantile, conformal_rank
from lightning_losses.calibrators.conformal_sets import ConformalSets
from lightning_losses.calibrators.correctness_aware_calibrator import CorrectnessAwareCalibrator
from lightning_losses.calibrators.dirichlet_calibration import DirichletCalibration
from lightning_losses.calibrators.ensemble_temperature_scaling import EnsembleTemperatureScaling
from lightning_losses.calibrators.histogram_binning import HistogramBinning
from lightning_losses.calibrators.image_views import image_views
from lightning_losses.calibrators.isotonic_multiclass import IsotonicMulticlass
from lightning_losses.calibrators.isotonic_regression import IsotonicRegression
from lightning_losses.calibrators.lac import LAC
from lightning_losses.calibrators.logit_adjuster import LogitAdjuster
from lightning_losses.calibrators.matrix_scaling import MatrixScaling
from lightning_losses.calibrators.platt_scaling import PlattScaling
from lightning_losses.calibrators.raps import RAPS
from lightning_losses.calibrators.temperature_scaling import TemperatureScaling
from lightning_losses.calibrators.vector_scaling import VectorScaling

__all__ = [
    "APS",
    "CQR",
    "LAC",
    "RAPS",
    "BayesianBinning",
    "BetaCalibration",
    "CalibratedModel",
    "Calibrator",
    "ConformalSets",
    "CorrectnessAwareCalibrator",
    "DirichletCalibration",
    "EnsembleTemperatureScaling",
    "HistogramBinning",
    "IsotonicMulticlass",
    "IsotonicRegression",
    "LogitAdjuster",
    "MatrixScaling",
    "PlattScaling",
    "SplitConformal",
    "TemperatureScaling",
    "VectorScaling",
    "conformal_p_values",
    "conformal_quantile",
    "conformal_rank",
    "image_views",
]
