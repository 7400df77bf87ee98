"""Mistakes in metrics."""

from tests.mutants.mistake import of

EVERY, SCORES, ERROR = (f"tests/metrics/test_{name}.py" for name in ("every_metric", "scores", "calibration_error"))
MISTAKES = [
    *of(
        "metrics/calibration_error.py",
        ERROR,
        ("power - noise", "power + noise"),
        (
            'weighting == "count" else (bins.samples > 0).double()',
            'weighting == "count" else torch.ones_like(bins.samples)',
        ),
        ("** (1 / norm)", "** 1.0"),
    ),
    *of(
        "metrics/bins.py",
        ERROR,
        ("sizes[: rows % bins] += 1", "sizes[rows % bins :] += 1"),
        ('side="left").T', 'side="right").T'),
    ),
    *of(
        "metrics/bins.py",
        EVERY,
        ("index * columns + torch.arange(columns", "index * columns + 0 * torch.arange(columns"),
    ),
    *of(
        "metrics/predictions.py",
        EVERY,
        ("kept = target != ignore_index", "kept = target != -1000"),
        ("target.max()) >= classes:", "target.max()) > classes:"),
        ("SUM_TOLERANCE = 1e-2", "SUM_TOLERANCE = 10.0"),
    ),
    *of("metrics/base.py", EVERY, ("self.sums: Tensor = self.sums + sums", "self.sums: Tensor = sums")),
    *of("metrics/base.py", EVERY, ('dist_reduce_fx="sum"', 'dist_reduce_fx="max"')),
    *of(
        "metrics/area_under_risk_coverage.py",
        SCORES,
        ("shared = (sums / sizes).gather(-1, group)", "shared = errors"),
        ("confidence.sort(descending=True)", "confidence.sort()"),
    ),
    *of(
        "metrics/brier_score.py",
        SCORES,
        ("(bins.outcome - frequency)", "(bins.confidence - frequency)"),
    ),
    *of(
        "metrics/kernel_calibration_error.py",
        SCORES,
        ("term[own, own + start] = 0.0", "term[own, own] = 0.0"),
        ("torch.as_tensor(total / (count * (count - 1)))", "torch.as_tensor(total / (count * count))"),
    ),
    *of(
        "metrics/negative_log_likelihood.py",
        SCORES,
        (
            "F.softplus(torch.where(target == 1, -predictions, predictions))",
            "F.softplus(torch.where(target == 1, predictions, -predictions))",
        ),
    ),
    *of(
        "metrics/overconfidence_error.py",
        ERROR,
        ("bins.samples * bins.confidence * torch.relu(gap)", "bins.samples * torch.relu(gap)"),
    ),
    *of(
        "metrics/retrieval.py",
        "tests/metrics/test_retrieval.py",
        ("(scores >= own).sum(dim=-1)", "(scores > own).sum(dim=-1) + 1"),
        ("values.mean(dim=0)", "values.mean(dim=1)"),
    ),
    *of(
        "metrics/named_calibration_errors.py",
        EVERY,
        ("def __init__(self, *, num_bins: int = 15, scope", "def __init__(self, *, num_bins: int = 10, scope"),
    ),
    *of(
        "metrics/calibration_summary.py",
        "tests/metrics/test_calibration_summary.py",
        ('binning="mass", norm="max"', 'norm="max"'),
    ),
    *of(
        "numerics/bins.py",
        "tests/numerics/test_bins.py",
        ("confidence.contiguous())", "confidence.contiguous(), right=True)"),
    ),
]
