"""Mistakes in calibrators."""

from tests.mutants.mistake import of

OPTIMUM, EVERY = "tests/calibrators/test_optimum.py", "tests/calibrators/test_every_calibrator.py"
MISTAKES = [
    *of(
        "calibrators/rows_to_fit.py",
        EVERY,
        ("kept = target != ignore_index", "kept = target != -1000"),
        ("target.max()) >= classes:", "target.max()) > classes:"),
        ("logits[kept], target[kept]", "logits[kept], target[: int(kept.sum())]"),
        ("torch.isfinite(torch.stack(torch.aminmax(logits)))", "torch.isfinite(logits[:1])"),
    ),
    *of(
        "calibrators/temperature_scaling.py",
        OPTIMUM,
        ("low < following < high", "low < following"),
    ),
    *of(
        "calibrators/dirichlet_calibration.py",
        OPTIMUM,
        (".clamp(min=_LEAST)", ""),
        ("torch.log_softmax(logits, dim=-1)", "logits"),
    ),
    *of(
        "calibrators/matrix_scaling.py",
        OPTIMUM,
        ("penalty[:, -1] = self.intercept_penalty / classes", "penalty[:, -1] = self.intercept_penalty"),
        ("gradient + 2 * penalty * coefficients", "gradient + penalty * coefficients"),
    ),
    *of(
        "calibrators/platt_scaling.py",
        OPTIMUM,
        ("1 / (negative + 2)", "1 / (negative + 1)"),
        ("offset - slope * mean", "offset"),
    ),
    *of("calibrators/beta_calibration.py", OPTIMUM, ("(coefficients[:2] < 0).any()", "(coefficients[:1] < 0).any()")),
    *of(
        "calibrators/convex.py",
        OPTIMUM,
        ("gradient[:, :-1] += residual.T @ features", "gradient[:, :-1] = residual.T @ features"),
        ("return coefficients / scale", "return coefficients"),
    ),
    *of(
        "calibrators/pool_adjacent_violators.py",
        OPTIMUM,
        ("mean[1:] > mean[:-1]", "mean[1:] < mean[:-1]"),
        ("stack[-1][1] * mass >= block * stack[-1][2]", "stack[-1][1] >= block"),
        (".clamp(0, 1)", ""),
    ),
    *of(
        "calibrators/histogram_binning.py",
        OPTIMUM,
        ("torch.where(count > 0, total / count.clamp(min=1), centre)", "total / count.clamp(min=1)"),
        ("self.num_bins - 1) // self.num_bins - 1", "self.num_bins - 1) // self.num_bins"),
    ),
    *of(
        "calibrators/ensemble_temperature_scaling.py",
        OPTIMUM,
        ("probabilities.square().sum() - 2 * chosen.sum()", "probabilities.square().sum() - chosen.sum()"),
    ),
    *of(
        "calibrators/isotonic_multiclass.py",
        EVERY,
        ("-1, logits.argmax(dim=-1, keepdim=True),", "-1, calibrated.argmax(dim=-1, keepdim=True),"),
    ),
    *of(
        "calibrators/correctness_aware_calibrator.py",
        "tests/calibrators/test_correctness_aware_calibrator.py",
        ("1 - accuracy, accuracy)", "accuracy, 1 - accuracy)"),
        (".sum(dim=-1) / divisor.square()", ".sum(dim=-1) / divisor"),
    ),
    *of(
        "calibrators/image_views.py",
        "tests/calibrators/test_image_views.py",
        ("-_SINE * height / width", "-_SINE"),
        ("_LUMINANCE = (0.299, 0.587, 0.114)", "_LUMINANCE = (0.299, 0.114, 0.587)"),
    ),
    *of(
        "calibrators/bayesian_binning.py",
        "tests/calibrators/test_bayesian_binning.py",
        ("right=True) - 1", "right=False)"),
        ("math.lgamma(self.concentration)", "0.0"),
    ),
]
