"""Calibration: metrics, post-hoc calibrators and training objectives."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_losses.calibrators import (
    DirichletCalibration,
    EnsembleTemperatureScaling,
    HistogramBinning,
    IsotonicRegression,
    MatrixScaling,
    PlattScaling,
    TemperatureScaling,
    VectorScaling,
)
from lightning_losses.losses import (
    DCA,
    MDCA,
    MMCE,
    AdaFocal,
    AvUC,
    CorrectnessAware,
    CrossEntropy,
    DualFocal,
    Focal,
    FocalAdaptive,
    MbLS,
    MMCEWeighted,
    RankMixupMNDCG,
    RankMixupMRL,
    SoftAvUC,
    SoftBinnedECE,
)
from lightning_losses.losses.confidence.adafocal import next_gammas
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
from lightning_losses.metrics.bins import bin_sums, binned, confidences
from lightning_losses.metrics.predictions import Predictions
from lightning_losses.numerics.bins import width_bins
from tests.golden.adapter import Adapter, Params, gradients, leaf

ODIR = "lam*sum offdiag^2/(C(C-1)) + mu*sum b^2/C"


def calibration_metrics(inputs: dict[str, Tensor], params: dict[str, Any]) -> dict[str, Tensor]:
    with Params(params) as given:
        bins, few, nu = given.take("bins"), given.take("pskd_bins", 10), given.take("nu", None)
    p, y = inputs["probs"], inputs["labels"]
    shared: Any = {"inputs": "probabilities", "num_bins": bins}
    confidence, outcome = confidences(Predictions(p, y, "probabilities"))
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
    return {
        "temperature": calibrator.temperature,
        "temperature_reference": calibrator.temperature,
        "nll": F.cross_entropy(calibrator(inputs["logits"]), inputs["labels"]),
    }


def ensemble_temperature_scaling(inputs: dict[str, Tensor], params: dict[str, Any]) -> dict[str, Tensor]:
    with Params(params) as given:
        given.choice("loss", {"mse": "mse"})
    calibrator = EnsembleTemperatureScaling().fit(inputs["logits"], inputs["labels"])
    return {
        "t": calibrator.temperature,
        "w": calibrator.weights,
        "probs": torch.softmax(calibrator(inputs["logits_eval"]), dim=-1),
    }


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
    return {
        "objective": F.cross_entropy(logits, inputs["labels"]) + mu * calibrator.offset.square().mean(),
        "probs_first8": torch.softmax(logits[:8], dim=-1),
    }


def affine(kind: type[MatrixScaling]) -> Adapter:
    def adapter(inputs: dict[str, Tensor], params: dict[str, Any]) -> dict[str, Tensor]:
        with Params(params) as given:
            lam, mu = given.take("lam_off_diagonal"), given.take("mu_intercept")
            given.choice("penalty", {ODIR: "odir"})
        calibrator = kind(lam, mu).fit(inputs["logits"], inputs["labels"])
        logits, weight, classes = calibrator(inputs["logits"]), calibrator.weight, inputs["logits"].shape[-1]
        off_diagonal = (weight - torch.diag(weight.diagonal())).square().sum()
        penalty = lam * off_diagonal / (classes * (classes - 1)) + mu * calibrator.offset.square().sum() / classes
        return {
            "objective": F.cross_entropy(logits, inputs["labels"]) + penalty,
            "probs_first8": torch.softmax(logits[:8], dim=-1),
        }

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


def objective(read: Callable[[Params], Callable[[Tensor, Tensor], Tensor]]) -> Adapter:
    """The adapter of a loss of logits and labels, from a reader of its parameters."""

    def adapter(inputs: dict[str, Tensor], params: dict[str, Any]) -> dict[str, Tensor]:
        with Params(params) as given:
            function = read(given)
        logits = leaf(inputs["logits"])
        loss = function(logits, inputs["labels"])
        return {"loss": loss, **gradients(loss, logits=logits)}

    return adapter


def focal(given: Params) -> Callable[[Tensor, Tensor], Tensor]:
    gamma, reduction = given.take("gamma"), given.take("reduction")
    return lambda logits, target: Focal(gamma=gamma, reduction=reduction)(logits, target)


def focal_adaptive(given: Params) -> Callable[[Tensor, Tensor], Tensor]:
    gamma, reduction = given.take("gamma"), given.take("reduction")
    return lambda logits, target: FocalAdaptive(gammas=(5.0, gamma), reduction=reduction)(logits, target)


def dual_focal(given: Params) -> Callable[[Tensor, Tensor], Tensor]:
    gamma, reduction = given.take("gamma"), given.take("reduction")
    return lambda logits, target: DualFocal(gamma=gamma, reduction=reduction)(logits, target)


def adafocal(inputs: dict[str, Tensor], params: dict[str, Any]) -> dict[str, Tensor]:
    with Params(params) as given:
        loss = AdaFocal(
            gamma=given.take("gamma"), num_bins=len(inputs["edges"]) + 1, rate=given.take("rate"),
            switch=given.take("switch"), least=given.take("least"), most=given.take("most"),
            reduction=given.take("reduction"),
        ).double()  # fmt: skip
    gammas = [loss.gammas]
    for gap in inputs["gaps"]:
        gammas.append(
            next_gammas(gammas[-1], gap, rate=loss.rate, switch=loss.switch, least=loss.least, most=loss.most)
        )
    loss.load_state_dict({"edges": inputs["edges"], "gammas": gammas[-1]})
    logits = leaf(inputs["logits"])
    value = loss(logits, inputs["target"])
    return {"gammas": torch.stack(gammas[1:]), "loss": value, **gradients(value, logits=logits)}


def dca(given: Params) -> Callable[[Tensor, Tensor], Tensor]:
    beta = given.take("beta")
    given.choice("total", {"CE + beta*DCA": None})
    return lambda logits, target: F.cross_entropy(logits, target) + beta * DCA()(logits, target)


def mmce(given: Params) -> Callable[[Tensor, Tensor], Tensor]:
    bandwidth = given.choice("kernel", {"laplace 0.4": 0.4})
    squared = given.choice("returns", {"squared MMCE (no root)": True})
    return lambda logits, target: MMCE(bandwidth=bandwidth, squared=squared)(logits, target)


def mbls(given: Params) -> Callable[[Tensor, Tensor], Tensor]:
    margin, alpha = given.take("margin"), given.take("alpha")
    given.choice("total", {"CE + alpha*mean over N*C": None})
    return lambda logits, target: MbLS(margin=margin, alpha=alpha)(logits, target)


def label_smoothing(given: Params) -> Callable[[Tensor, Tensor], Tensor]:
    alpha = given.take("alpha")
    given.choice("uniform", {"over all C classes": None})
    return lambda logits, target: CrossEntropy(label_smoothing=alpha)(logits, target)


def avuc(given: Params) -> Callable[[Tensor, Tensor], Tensor]:
    beta, threshold = given.take("beta"), given.take("threshold")
    given.choice("eps", {1e-10: None})
    return lambda logits, target: beta * AvUC(threshold=threshold)(logits, target)


def soft_ece(given: Params) -> Callable[[Tensor, Tensor], Tensor]:
    bins, temperature = given.take("bins"), given.take("temperature")
    given.choice("norm", {"l2 with square root": None})
    given.choice("eps", {1e-5: None})
    return lambda logits, target: SoftBinnedECE(num_bins=bins, temperature=temperature)(logits, target)


def soft_avuc(given: Params) -> Callable[[Tensor, Tensor], Tensor]:
    kappa, temperature = given.take("kappa"), given.take("temperature")
    given.choice("eps", {1e-5: None})
    return lambda logits, target: SoftAvUC(threshold=kappa, temperature=temperature)(logits, target)


def mdca(given: Params) -> Callable[[Tensor, Tensor], Tensor]:
    def loss(logits: Tensor, target: Tensor) -> Tensor:
        # The authors average the classes' indicators in float32; the rounding is theirs, and added here.
        indicators = F.one_hot(target, logits.shape[-1])
        frequency, rounded = indicators.double().mean(0), indicators.float().mean(0).double()
        above = torch.sign(logits.detach().softmax(-1).mean(0) - frequency)
        return MDCA()(logits, target) + (above * (frequency - rounded)).mean()

    return loss


def mmce_weighted(inputs: dict[str, Tensor], params: dict[str, Any]) -> dict[str, Tensor]:
    with Params(params) as given:
        bandwidth = given.choice("kernel", {"laplace 0.4": 0.4})
    logits, target = leaf(inputs["logits"]), inputs["labels"]
    loss = MMCEWeighted(bandwidth=bandwidth)(logits, target)
    # The authors' code divides by the block sizes once more.
    confidence, prediction = logits.detach().softmax(-1).max(-1)
    right = prediction == target
    kernel = torch.exp(-(confidence[:, None] - confidence).abs() / bandwidth)
    up, down = ((1 - confidence) * right, confidence * ~right)
    m, n = right.sum(), (~right).sum()
    blocks = [
        (up[:, None] * up * kernel).sum() / m**4,
        (down[:, None] * down * kernel).sum() / n**4,
        -2 * (up[:, None] * down * kernel).sum() / (m * n) ** 2,
    ]
    return {
        "loss_formula": loss,
        "loss_ref_code": (sum(blocks) + 1e-10).sqrt(),
        "grad_formula": gradients(loss, logits=logits)["grad_logits"],
    }


def correctness_aware(inputs: dict[str, Tensor], params: dict[str, Any]) -> dict[str, Tensor]:
    with Params(params) as given:
        temperature = given.take("temperature")
    logits, target = leaf(inputs["logits_original"] / temperature), inputs["labels"]
    torch.testing.assert_close(logits.detach(), inputs["logits_calibrated"])
    mean, balanced = (CorrectnessAware(balanced=b)(logits, target) for b in (False, True))
    return {
        "loss_mean": mean,
        "loss_balanced": balanced,
        "grad_mean": gradients(mean, logits=logits)["grad_logits"],
        "grad_balanced": gradients(balanced, logits=logits)["grad_logits"],
        "correctness": (logits.argmax(-1) == target).double(),
    }


def rankmixup_mndcg(inputs: dict[str, Tensor], params: dict[str, Any]) -> dict[str, Tensor]:
    with Params(params) as given:
        alpha, mixtures = given.take("alpha"), given.take("Q")
    raw, mixup, target = leaf(inputs["logits_raw"]), leaf(inputs["logits_mixup"]), inputs["labels"]
    if len(mixup) != mixtures * len(raw):
        raise ValueError(f"{len(mixup)} mixtures of {len(raw)} samples came with Q={mixtures}")
    ce = CrossEntropy()(raw, target)
    mndcg = RankMixupMNDCG()(raw, target, mixup, inputs["target_mixup"])
    loss = ce + alpha * mndcg
    return {"loss": loss, "loss_ce": ce, "loss_mndcg": mndcg, **gradients(loss, raw=raw, mixup=mixup)}


def rankmixup_mrl(inputs: dict[str, Tensor], params: dict[str, Any]) -> dict[str, Tensor]:
    with Params(params) as given:
        alpha, margin, margin_prob = given.take("alpha"), given.take("margin"), given.take("margin_prob")
    raw, mixup, target = leaf(inputs["logits_raw"]), leaf(inputs["logits_mixup"]), inputs["labels"]
    mixed = inputs["target_mixup"]
    ce = CrossEntropy()(raw, target)
    logit = RankMixupMRL(margin=margin)(raw, target, mixup, mixed)
    mask = (mixed.max(-1).values < 1).double()
    # The authors' code broadcasts the mask over the batch: a product of means.
    everything = RankMixupMRL(margin=margin)(raw, target, mixup, torch.full_like(mixed, 1 / mixed.shape[-1]))
    found = gradients(logit, raw_per_sample=raw, mixup_per_sample=mixup)
    return {
        "loss_ce": ce,
        "mask": mask,
        "mrl_ref_code": mask.mean() * everything,
        "loss_ref_code": ce + alpha * mask.mean() * everything,
        "mrl_logit_per_sample": logit,
        "mrl_prob_per_sample": RankMixupMRL(margin=margin_prob, compare="probabilities")(raw, target, mixup, mixed),
        **found,
    }


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
    "adafocal": adafocal,
    "focal_loss": objective(focal),
    "focal_adaptive": objective(focal_adaptive),
    "dual_focal_loss": objective(dual_focal),
    "mdca": objective(mdca),
    "dca": objective(dca),
    "mmce": objective(mmce),
    "mmce_weighted": mmce_weighted,
    "mbls": objective(mbls),
    "label_smoothing": objective(label_smoothing),
    "avuc": objective(avuc),
    "soft_binned_ece": objective(soft_ece),
    "soft_avuc": objective(soft_avuc),
    "correctness_aware": correctness_aware,
    "rankmixup_mndcg": rankmixup_mndcg,
    "rankmixup_mrl": rankmixup_mrl,
}
