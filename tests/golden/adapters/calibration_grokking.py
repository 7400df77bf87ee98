"""Calibration: metrics, post-hoc calibrators and training objectives."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_losses.calibration import (
    DirichletCalibration,
    EnsembleTemperatureScaling,
    HistogramBinning,
    IsotonicRegression,
    MatrixScaling,
    PlattScaling,
    TemperatureScaling,
    VectorScaling,
)
from lightning_losses.metrics import (
    adaptive_calibration_error,
    area_under_risk_coverage,
    brier_score,
    calibration_error,
    classwise_calibration_error,
    expected_calibration_error,
    kernel_calibration_error,
    maximum_calibration_error,
    negative_log_likelihood,
    overconfidence_error,
    rms_calibration_error,
)
from lightning_losses.metrics.bins import bin_sums, binned, confidences, width_bins
from tests.golden.adapter import Adapter, Params

ODIR = "lam*sum offdiag^2/(C(C-1)) + mu*sum b^2/C"


def calibration_metrics(inputs: dict[str, Tensor], params: dict[str, Any]) -> dict[str, Tensor]:
    with Params(params) as given:
        bins, few, nu = given.take("bins"), given.take("pskd_bins", 10), given.take("nu", None)
    p, y = inputs["probs"], inputs["labels"]
    shared: Any = {"inputs": "probabilities", "num_bins": bins}
    confidence, outcome = confidences(p, y, inputs="probabilities", task="multiclass", scope="top_label")
    shown = binned(bin_sums(confidence, outcome, width_bins(confidence, bins), bins))
    classwise = classwise_calibration_error(p, y, **shared)
    equal_mass = expected_calibration_error(p, y, binning="mass", **shared)
    return {
        "tm_l1": expected_calibration_error(p, y, **shared),
        "tm_l2": rms_calibration_error(p, y, binning="width", **shared),
        "tm_max": maximum_calibration_error(p, y, **shared),
        "netcal_ece": expected_calibration_error(p, y, **shared),
        "netcal_ace": calibration_error(p, y, weighting="uniform", **shared),
        "netcal_mce": maximum_calibration_error(p, y, **shared),
        "netcal_ece_equal_mass": equal_mass,
        "classwise_ece_ref_float32": classwise,
        "classwise_ece": classwise,
        "vc_ece_equal_mass": equal_mass,
        "vc_rmsce_top_debiased": rms_calibration_error(p, y, debiased=True, **shared),
        "vc_rmsce_top_plugin": rms_calibration_error(p, y, **shared),
        "vc_rmsce_marginal_debiased": rms_calibration_error(p, y, scope="classwise", debiased=True, **shared),
        "brier": brier_score(p, y, inputs="probabilities"),
        "nll": negative_log_likelihood(p, y, inputs="probabilities"),
        "aurc": area_under_risk_coverage(p, y, inputs="probabilities"),
        "e_aurc": area_under_risk_coverage(p, y, inputs="probabilities", excess=True),
        "pskd_ece_percent_10bins": 100 * expected_calibration_error(p, y, inputs="probabilities", num_bins=few),
        "reliability_count": shown.samples[:, 0].long(),
        "reliability_conf": shown.confidence[:, 0],
        "reliability_acc": shown.outcome[:, 0],
        "skce_first60": kernel_calibration_error(p[:60], y[:60], inputs="probabilities", bandwidth=nu),
        "nixon_ace": adaptive_calibration_error(p, y, **shared),
        "oe": overconfidence_error(p, y, **shared),
        "ue": overconfidence_error(p, y, direction="under", **shared),
    }


def temperature_scaling(inputs: dict[str, Tensor], params: dict[str, Any]) -> dict[str, Tensor]:
    with Params(params):
        calibrator = TemperatureScaling().fit(inputs["logits"], inputs["labels"])
    return {"temperature": calibrator.temperature, "temperature_reference": calibrator.temperature,
            "nll": F.cross_entropy(calibrator(inputs["logits"]), inputs["labels"])}


def ensemble_temperature_scaling(inputs: dict[str, Tensor], params: dict[str, Any]) -> dict[str, Tensor]:
    with Params(params) as given:
        given.choice("loss", {"mse": "mse"})
    calibrator = EnsembleTemperatureScaling().fit(inputs["logits"], inputs["labels"])
    return {"t": calibrator.temperature, "w": calibrator.weights,
            "probs": torch.softmax(calibrator(inputs["logits_eval"]), dim=-1)}


def isotonic_per_class(inputs: dict[str, Tensor], params: dict[str, Any]) -> dict[str, Tensor]:
    with Params(params) as given:
        given.choice("tie_break", {"adds 1e-9 times the fitted value": 1e-9})
    calibrator = IsotonicRegression().fit(inputs["logits"], inputs["labels"])
    return {"probs_unnormalised": calibrator.class_probabilities(inputs["logits_eval"])}


def vector_scaling(inputs: dict[str, Tensor], params: dict[str, Any]) -> dict[str, Tensor]:
    with Params(params) as given:
        given.take("lam_off_diagonal")  # a diagonal has none
        mu = given.take("mu_intercept")
        given.choice("penalty", {"mu*sum b^2/C": "intercept"})
    calibrator = VectorScaling(mu).fit(inputs["logits"], inputs["labels"])
    logits = calibrator(inputs["logits"])
    return {"objective": F.cross_entropy(logits, inputs["labels"]) + mu * calibrator.offset.square().mean(),
            "probs_first8": torch.softmax(logits[:8], dim=-1)}


def affine(kind: type[MatrixScaling]) -> Adapter:
    def adapter(inputs: dict[str, Tensor], params: dict[str, Any]) -> dict[str, Tensor]:
        with Params(params) as given:
            lam, mu = given.take("lam_off_diagonal"), given.take("mu_intercept")
            given.choice("penalty", {ODIR: "odir"})
        calibrator = kind(lam, mu).fit(inputs["logits"], inputs["labels"])
        logits, weight, classes = calibrator(inputs["logits"]), calibrator.weight, inputs["logits"].shape[-1]
        off_diagonal = (weight - torch.diag(weight.diagonal())).square().sum()
        penalty = lam * off_diagonal / (classes * (classes - 1)) + mu * calibrator.offset.square().sum() / classes
        return {"objective": F.cross_entropy(logits, inputs["labels"]) + penalty,
                "probs_first8": torch.softmax(logits[:8], dim=-1)}

    return adapter


def histogram_binning(inputs: dict[str, Tensor], params: dict[str, Any]) -> dict[str, Tensor]:
    with Params(params) as given:
        bins = given.take("bins")
    logits = torch.logit(inputs["probs"])
    calibrator = HistogramBinning(bins).fit(logits, inputs["labels"])
    return {"calibrated": torch.sigmoid(calibrator(logits))}


def platt_scaling(inputs: dict[str, Tensor], params: dict[str, Any]) -> dict[str, Tensor]:
    with Params(params) as given:
        smoothing = given.take("target_smoothing")
        given.choice("form", {"sigmoid(a*s+b)": "rising"})
    calibrator = PlattScaling(smoothing).fit(inputs["scores"], inputs["labels"])
    return {"a": calibrator.slope[0], "b": calibrator.offset[0]}


ADAPTERS: dict[str, Adapter] = {
    "calibration_metrics": calibration_metrics,
    "temperature_scaling": temperature_scaling,
    "ensemble_temperature_scaling": ensemble_temperature_scaling,
    "isotonic_per_class": isotonic_per_class,
    "vector_scaling": vector_scaling,
    "matrix_scaling": affine(MatrixScaling),
    "dirichlet_calibration": affine(DirichletCalibration),
    "histogram_binning": histogram_binning,
    "platt_scaling": platt_scaling,
}
