"""Metrics of predictions and their confidence: functions, and `torchmetrics.Metric` classes of the same name."""

from lightning_losses.metrics.alignment_uniformity import alignment, tolerance, uniformity
from lightning_losses.metrics.area_under_risk_coverage import (
    AreaUnderRiskCoverage,
    RiskCoverage,
    area_under_risk_coverage,
    risk_coverage_curve,
)
from lightning_losses.metrics.bootstrap import Interval, bootstrap_interval
from lightning_losses.metrics.brier_score import (
    BrierDecomposition,
    BrierParts,
    BrierScore,
    brier_decomposition,
    brier_score,
)
from lightning_losses.metrics.calibration_error import CalibrationError, calibration_error
from lightning_losses.metrics.calibration_summary import SUMMARY, calibration_intervals, calibration_summary
from lightning_losses.metrics.class_retrieval import ClassRetrieval, class_retrieval
from lightning_losses.metrics.kernel_calibration_error import KernelCalibrationError, kernel_calibration_error
from lightning_losses.metrics.membership_inference import MembershipAudit, MembershipInference, membership_inference
from lightning_losses.metrics.membership_scores import (
    dc_pdd_score,
    loss_score,
    min_k_plus_plus_score,
    min_k_score,
    reference_score,
    token_frequencies,
    zlib_score,
)
from lightning_losses.metrics.named_calibration_errors import (
    AdaptiveCalibrationError,
    ClasswiseCalibrationError,
    ExpectedCalibrationError,
    MaximumCalibrationError,
    RMSCalibrationError,
    adaptive_calibration_error,
    classwise_calibration_error,
    expected_calibration_error,
    maximum_calibration_error,
    rms_calibration_error,
)
from lightning_losses.metrics.negative_log_likelihood import NegativeLogLikelihood, negative_log_likelihood
from lightning_losses.metrics.neighbours import knn_accuracy, nearest_class_mean_accuracy
from lightning_losses.metrics.opis import OPIS, opis
from lightning_losses.metrics.out_of_distribution import (
    DetectionScores,
    OutOfDistributionDetection,
    out_of_distribution_detection,
)
from lightning_losses.metrics.overconfidence_error import OverconfidenceError, overconfidence_error
from lightning_losses.metrics.prediction_sets import (
    PredictionSetMetrics,
    classwise_coverage,
    interval_coverage,
    interval_width,
    set_coverage,
    set_size,
    size_stratified_violation,
)
from lightning_losses.metrics.ranked_labels import (
    PrecisionAtK,
    label_propensities,
    precision_at_k,
    propensity_scored_precision_at_k,
)
from lightning_losses.metrics.shot_accuracy import ShotAccuracy, shot_accuracy, shot_groups
from lightning_losses.metrics.subgroup_accuracy import (
    AccuracyCurve,
    SubgroupAccuracy,
    accuracy_curve,
    balanced_accuracy,
    subgroup_accuracy,
)
from lightning_losses.metrics.tail_accuracy import tail_accuracy

__all__ = [
    "OPIS",
    "SUMMARY",
    "AccuracyCurve",
    "AdaptiveCalibrationError",
    "AreaUnderRiskCoverage",
    "BrierDecomposition",
    "BrierParts",
    "BrierScore",
    "CalibrationError",
    "ClassRetrieval",
    "ClasswiseCalibrationError",
    "DetectionScores",
    "ExpectedCalibrationError",
    "Interval",
    "KernelCalibrationError",
    "MaximumCalibrationError",
    "MembershipAudit",
    "MembershipInference",
    "NegativeLogLikelihood",
    "OutOfDistributionDetection",
    "OverconfidenceError",
    "PrecisionAtK",
    "PredictionSetMetrics",
    "RMSCalibrationError",
    "RiskCoverage",
    "ShotAccuracy",
    "SubgroupAccuracy",
    "accuracy_curve",
    "adaptive_calibration_error",
    "alignment",
    "area_under_risk_coverage",
    "balanced_accuracy",
    "bootstrap_interval",
    "brier_decomposition",
    "brier_score",
    "calibration_error",
    "calibration_intervals",
    "calibration_summary",
    "class_retrieval",
    "classwise_calibration_error",
    "classwise_coverage",
    "dc_pdd_score",
    "expected_calibration_error",
    "interval_coverage",
    "interval_width",
    "kernel_calibration_error",
    "knn_accuracy",
    "label_propensities",
    "loss_score",
    "maximum_calibration_error",
    "membership_inference",
    "min_k_plus_plus_score",
    "min_k_score",
    "nearest_class_mean_accuracy",
    "negative_log_likelihood",
    "opis",
    "out_of_distribution_detection",
    "overconfidence_error",
    "precision_at_k",
    "propensity_scored_precision_at_k",
    "reference_score",
    "risk_coverage_curve",
    "rms_calibration_error",
    "set_coverage",
    "set_size",
    "shot_accuracy",
    "shot_groups",
    "size_stratified_violation",
    "subgroup_accuracy",
    "tail_accuracy",
    "token_frequencies",
    "tolerance",
    "uniformity",
    "zlib_score",
]
