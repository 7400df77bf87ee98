"""What has no answer is refused in one sentence, and what has a limit is that: of what measures, fits and draws."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from lightning_losses import calibrators as C
from lightning_losses import metrics as M
from lightning_losses import samplers as S
from lightning_losses.data.ferkd_labels import ferkd_labels
from lightning_losses.data.overlapping_gaussians import OverlappingGaussians
from lightning_losses.data.packing import pack_documents
from lightning_losses.data.selfmix import selfmix
from lightning_losses.data.splits import split_whole, stratified_split
from lightning_losses.data.topk_soft_label import restore_soft_label
from lightning_losses.data.xor_cluster import XORCluster
from lightning_losses.diagnostics import continual_accuracy as continual
from lightning_losses.diagnostics import hessian_spectrum as hessian
from lightning_losses.diagnostics import kernel_similarity as kernels
from lightning_losses.diagnostics import linear_mode_connectivity as connectivity
from lightning_losses.diagnostics import mutual_information as information
from lightning_losses.diagnostics.diffusion_spectral_entropy import (
    diffusion_spectral_entropy,
    diffusion_spectral_information,
)
from lightning_losses.diagnostics.empirical_ntk import empirical_ntk
from lightning_losses.diagnostics.learning_rate_sensitivity import learning_rate_sensitivity
from lightning_losses.diagnostics.mahalanobis_score import mahalanobis_distances
from lightning_losses.diagnostics.neural_collapse import neural_collapse
from lightning_losses.metrics.bootstrap import mean_interval, proportion_interval
from lightning_losses.metrics.retrieval import retrieval_ranks, retrieval_scores
from lightning_losses.numerics.interpolation import interpolated
from lightning_losses.teachers import TeacherEnsemble

NAN, INF = math.nan, math.inf
X = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 0, 1, 0, 1])
HOLED = X.clone().index_fill(0, torch.tensor(0), NAN)
NONE, NO_LABELS = torch.zeros(0, 3), torch.zeros(0, dtype=torch.long)
LINEAR = [nn.Linear(3, 2), nn.Linear(3, 2)]
KERNEL, WEIGHT, ACCURACY = torch.eye(3), torch.randn(2, 3), torch.rand(3, 2)
P = torch.softmax(X[:2], dim=-1)


def t(*values):
    return torch.tensor(values)


def kept(metric, **options):
    made = metric(inputs="logits", keep_rows=True)
    made.update(X, Y)
    return made.interval(**options)


def ferkd(probabilities, target):
    return ferkd_labels(probabilities, target, low=0.1, middle=0.5)


def crops(batch=1, height=8, labels=1, **options):
    images, target = torch.zeros(batch, 1, height, 8), torch.zeros(labels, 2)
    return selfmix(images, images, target, target, **options)


def domains(*given, **options):
    return S.DomainSampler(*given, **options)


REFUSED = {
    # Samplers.
    "NaN loss of a domain": (lambda: S.initial_domain_weights(t(NAN, 1.0), t(1.0, 1.0)), "give finite numbers"),
    "no domains": (lambda: S.initial_domain_weights(t(), t()), "one cross-entropy for each domain"),
    "too few weights": (lambda: S.updated_domain_weights(t(1.0), t(2.0, 1.0), t(1.0, 1.0)), "came for 2 domains"),
    "a negative weight": (lambda: S.updated_domain_weights(t(-1.0, 2.0), t(2.0, 1.0), t(1.0, 1.0)), "non-negative"),
    "weights of 0": (lambda: S.updated_domain_weights(t(0.0, 0.0), t(2.0, 1.0), t(1.0, 1.0)), "of sum 1"),
    "no samples of domains": (lambda: domains([]), "at least one sample"),
    "a negative domain": (lambda: domains([-1, 0]), "from 0 on"),
    "half a domain": (lambda: domains([0.5, 0.0]), "torch.float32 came"),
    "a rank beyond": (lambda: domains([0, 0], num_replicas=2, rank=3), "rank=3 of 2 processes"),
    "fewer samples than processes": (lambda: domains([0], num_replicas=2), "a sample for each process"),
    "NaN as a weight": (lambda: domains([0, 1]).set_weights(t(NAN, 1.0)), "non-negative numbers of sum 1"),
    "an infinite gain": (lambda: S.robust_active_distribution(t(INF, 1.0), 0), "finite numbers above 0"),
    "a truth as a number": (lambda: S.robust_active_distribution(t(1.0, 1.0), True), "num_errors=True"),
    # Metrics.
    "NaN embeddings": (lambda: retrieval_ranks(HOLED, X), "which have no rank"),
    "no ranks": (lambda: retrieval_scores(torch.zeros(1, 0)), r"\[seeds, pairs\]"),
    "ranks of no seed": (lambda: retrieval_scores(torch.zeros(0, 3)), r"\[seeds, pairs\]"),
    "ranks without seeds": (lambda: retrieval_scores(t(1, 2)), r"\[seeds, pairs\]"),
    "a rank of 0": (lambda: retrieval_scores(t([0, 2])), "numbers from 1 on"),
    "a rank of NaN": (lambda: retrieval_scores(t([NAN, 2.0])), "numbers from 1 on"),
    "a mean of nothing": (lambda: mean_interval(t()), r"within \[0, 1\]"),
    "a mean above 1": (lambda: mean_interval(t(2.0, 3.0)), r"within \[0, 1\]"),
    "a share of no samples": (lambda: proportion_interval(t(0.5), 0, 0.95), "more than 0 samples"),
    "a share above 1": (lambda: proportion_interval(t(2.0), 10, 0.95), r"within \[0, 1\]"),
    "a level of 1": (lambda: proportion_interval(t(0.5), 10, 1.0), "level=1.0"),
    "half a resample": (lambda: kept(M.ExpectedCalibrationError, resamples=10.5), "whole number"),
    "half a resample of kernels": (lambda: kept(M.KernelCalibrationError, resamples=10.5), "whole number"),
    "half a resample of means": (lambda: kept(M.BrierScore, resamples=10.5), "whole number"),
    "no resamples": (lambda: kept(M.KernelCalibrationError, resamples=0), "at least 1"),
    "an infinite norm": (lambda: M.calibration_error(X, Y, inputs="logits", norm=INF), "norm=inf"),
    "other classes": (lambda: M.ClasswiseCalibrationError(5, inputs="logits").update(X, Y), "num_classes=5"),
    "half a class": (lambda: M.ClasswiseCalibrationError(2.5, inputs="logits"), "num_classes=2.5"),
    "classes of parts": (lambda: M.BrierDecomposition(1, inputs="logits").update(X, Y), "num_classes=1"),
    "another norm of a metric that has one": (
        lambda: M.MaximumCalibrationError(inputs="logits", norm=2),
        "^MaximumCalibrationError: norm=2 came",
    ),
    "a norm of overconfidence": (lambda: M.OverconfidenceError(inputs="logits", norm=2), "norm=2 came"),
    "weights of overconfidence": (
        lambda: M.overconfidence_error(X, Y, inputs="logits", weighting="uniform"),
        "weighting='uniform' came",
    ),
    "another norm as a function": (lambda: M.expected_calibration_error(X, Y, inputs="logits", norm=2), "norm=2"),
    "no debiased error of classes": (
        lambda: M.ClasswiseCalibrationError(3, inputs="logits", debiased=True),
        "debiased=True",
    ),
    "no labels": (
        lambda: M.brier_score(torch.zeros(3, 0), torch.zeros(3, 0).long(), inputs="logits", task="multilabel"),
        "have no labels",
    ),
    # Calibrators.
    "an infinite penalty": (lambda: C.VectorScaling(INF), "intercept_penalty=inf"),
    "an infinite penalty of a matrix": (lambda: C.MatrixScaling(INF), "off_diagonal_penalty=inf"),
    # Diagnostics.
    "NaN accuracy": (lambda: continual.windowed_forgetting([0.9, NAN, 0.1]), "hold NaN"),
    "half a window": (lambda: continual.windowed_forgetting([0.9, 0.1], window=1.5), "window=1.5"),
    "a task beyond": (lambda: continual.worst_case_accuracy(ACCURACY, t(0, 1, 2)), "for 2 tasks"),
    "a task before": (lambda: continual.stability_gap(ACCURACY, t(1, 0, 1)), "never fall"),
    "no evaluations": (lambda: continual.stability_gap(torch.zeros(0, 2), NO_LABELS), "at least one"),
    "other evaluations": (lambda: continual.worst_case_accuracy(ACCURACY, t(0, 1)), r"current of shape \[2\]"),
    "tasks as floats": (lambda: continual.worst_case_accuracy(ACCURACY, t(0.0, 1.0, 1.0)), "torch.float32"),
    "an entropy of nothing": (lambda: diffusion_spectral_entropy(NONE), "at least one of each"),
    "labels of others": (lambda: diffusion_spectral_information(X, Y[:3]), "a class index for each"),
    "half a repetition": (lambda: diffusion_spectral_information(X, Y, repetitions=1.5), "repetitions=1.5"),
    "a frozen network": (lambda: empirical_ntk(nn.Linear(3, 2).requires_grad_(False), X), "requires a gradient"),
    "half a step": (lambda: hessian.lanczos(lambda v: v, 2, steps=1.5), "steps=1.5"),
    "half a probe": (lambda: hessian.hutchinson(lambda v: v, 2, probes=1.5), "probes=1.5"),
    "no dimension": (lambda: hessian.hutchinson(lambda v: v, 0, probes=None), "size=0"),
    "kernels of others": (lambda: kernels.kernel_alignment(KERNEL, torch.ones(1, 1)), "of the same samples"),
    "no kernel": (lambda: kernels.kernel_distance(X, X), r"\[samples, samples\]"),
    "the rank of nothing": (lambda: kernels.effective_rank(torch.zeros(0, 0)), r"\[samples, samples\]"),
    "other samples": (lambda: kernels.linear_cka(X, X[:3]), "give the same twice"),
    "labels of others for a kernel": (lambda: kernels.label_alignment(KERNEL, torch.ones(2, 1)), "same samples"),
    "positions beyond the path": (lambda: connectivity.loss_barrier([0, 5, 1], [1, 2, 1]), "from 0 to 1"),
    "positions out of order": (lambda: connectivity.loss_barrier([0, 0.6, 0.4, 1], [1, 2, 3, 1]), "rise from 0"),
    "a position twice": (lambda: connectivity.loss_barrier([0, 0.5, 0.5, 1], [1, 2, 3, 1]), "rise from 0"),
    "a path without its ends": (lambda: connectivity.loss_barrier([0.2, 0.5, 0.8], [1, 2, 1]), "rise from 0"),
    "infinite weights of teachers": (lambda: TeacherEnsemble([nn.Linear(3, 2)], [INF]), "not all 0"),
    "states of other shapes": (
        lambda: connectivity.interpolated_losses(
            nn.Linear(3, 2), nn.Linear(3, 2).state_dict(), nn.Linear(4, 2).state_dict(), lambda _: 0.0
        ),
        "weight have different shapes",
    ),
    "distances from nothing": (lambda: mahalanobis_distances(NONE, NO_LABELS, X), "at least one of each"),
    "queries of other size": (lambda: mahalanobis_distances(X, Y, X[:, :2]), "queries of 2 numbers"),
    "NaN in a bin": (lambda: information.fixed_bins(HOLED, 0.5), "lie in no bin"),
    "inf in a bin": (lambda: information.uniform_bins(X * INF, 3), "lie in no bin"),
    "no bins": (lambda: information.uniform_bins(X, 0), "bins=0"),
    "bins that end before": (lambda: information.uniform_bins(X, 3, 1.0, -1.0), "low < high"),
    "half a bin": (lambda: information.adaptive_bins(X, 2.5), "bins=2.5"),
    "information of nothing": (lambda: information.binned_information(NONE.long(), NO_LABELS), r"shape \[0, 3\]"),
    "information on others": (lambda: information.kde_information(X, Y[:3]), "a class index for each"),
    "half a neighbour": (lambda: information.knn_entropy(X, 1.5), "neighbours=1.5"),
    "no components": (lambda: information.knn_information(X, Y, components=0), "components=0"),
    "no dimensions": (lambda: information.knn_information(torch.zeros(6, 0), Y), "at least one of each"),
    "a class beyond": (lambda: neural_collapse(X, Y + 1, WEIGHT), "targets from 1 to 2"),
    "a class before": (lambda: neural_collapse(X, Y - 1, WEIGHT), "targets from -1 to 0"),
    "one class": (lambda: neural_collapse(X, Y * 0, WEIGHT), "1 classes have samples"),
    "another classifier": (lambda: neural_collapse(X, Y, torch.randn(2, 4)), "the classifier that takes them"),
    "another bias": (lambda: neural_collapse(X, Y, WEIGHT, torch.zeros(3)), "the classifier that takes them"),
    "classes as floats": (lambda: neural_collapse(X, Y.float(), WEIGHT), "torch.float32"),
    # Data.
    "a split of nothing": (
        lambda: stratified_split(np.zeros(0), val_fraction=0.2, test_fraction=0.2, seed=0),
        "no samples came",
    ),
    "shares above 1": (lambda: split_whole(["abc"], val_fraction=0.9, test_fraction=0.2), "below 1"),
    "a split of no files": (lambda: split_whole([], val_fraction=0.2, test_fraction=0.2), "without a sample"),
    "tokens with fractions": (lambda: pack_documents([t(1.5, 2.5)], 4), "an integer type"),
    "a stored class beyond": (lambda: restore_soft_label(t([5]), t([0.5]), 3), "give 0 to 2"),
    "a stored class twice": (lambda: restore_soft_label(t([0, 0]), t([0.5, 0.2]), 3), "each at most once per row"),
    "more than all": (lambda: restore_soft_label(t([0, 1]), t([0.8, 0.8]), 3), "give probabilities"),
    "less than nothing": (lambda: restore_soft_label(t([0, 1]), t([-0.1, 0.8]), 3), "give probabilities"),
    "a stored NaN": (lambda: restore_soft_label(t([0]), t([NAN]), 3), "give probabilities"),
    "nothing to renormalise": (lambda: restore_soft_label(t([0]), t([0.0]), 3, kind="renormalise"), "above 0"),
    "half a class to restore": (lambda: restore_soft_label(t([0]), t([0.5]), 2.5), "num_classes=2.5"),
    "a crop's class beyond": (lambda: ferkd(P, t(0, 3)), "targets from 0 to 3"),
    "a teacher of NaN": (lambda: ferkd(P * NAN, t(0, 1)), "no probabilities"),
    "a teacher's logits": (lambda: ferkd(3 * P, t(0, 1)), "no probabilities"),
    "crops without pixels": (lambda: crops(height=0), "two"),
    "labels of other crops": (lambda: crops(batch=2), "two"),
    "an infinite alpha": (lambda: crops(alpha=INF), "alpha=inf"),
    "an infinite signal": (lambda: XORCluster(signal=INF), "signal"),
    "an infinite distance": (lambda: OverlappingGaussians(distance=INF), "distance"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_answer_is_refused(name):
    attempt, message = REFUSED[name]
    with pytest.raises(ValueError, match=message) as caught:
        attempt()
    assert "\n" not in str(caught.value)


def collapse(features, weight=WEIGHT):
    found = neural_collapse(features, Y, weight)
    return [float(found[name]) for name in ("nc1", "nc2_equinorm_means", "nc2_equinorm_weights", "nc3")]


LIMITS = {
    "a student far behind": (lambda: S.initial_domain_weights(t(1e3, 1.0), t(1.0, 1.0)), [1.0, 0.0]),
    "a share that is less in binary": (
        lambda: len(S.difference_sampling(t(*[1.0] * 100), t(*[1.0] * 100), ratio=0.29)),
        29,
    ),
    "the start, away from what has no mean": (lambda: interpolated(t(1.0, -INF), t(-INF, 1.0), 0.0), [1.0, -INF]),
    "the end, away from what has no mean": (lambda: interpolated(t(1.0, -INF), t(-INF, 1.0), 1.0), [-INF, 1.0]),
    "a class that one network masks, halfway": (lambda: interpolated(t(1.0, -INF), t(-INF, 1.0), 0.5), [-INF, 1.0]),
    "weights below what a sum holds": (lambda: TeacherEnsemble(LINEAR, [1e-320, 3e-320]).weights, [0.25, 0.75]),
    "weights beyond what a sum holds": (lambda: TeacherEnsemble(LINEAR, [1e308, 1e308]).weights, [0.5, 0.5]),
    "no slope at an infinite score": (
        lambda: C.PlattScaling().fit(torch.ones(4), Y[:4])(t(INF, -INF, 1.0, NAN)),
        [0.0, 0.0, 0.0, NAN],
    ),
    "an infinite class": (lambda: C.PlattScaling().fit(X, torch.arange(6) % 3)(t(INF, 0.0, 1.0))[0], NAN),
    "a probability that underflows": (
        lambda: C.IsotonicMulticlass().fit(10 * torch.eye(3), torch.arange(3))(t(200.0, 0.0, -200.0))[1:],
        [math.log(1e-9) - 200, math.log(1e-9) - 400],
    ),
    "no instances": (lambda: S.difference_sampling(t(), t()), []),
    "one row alone": (lambda: torch.stack(M.bootstrap_interval(torch.mean, t(1.0))), [NAN, NAN]),
    "rows all alike": (lambda: torch.stack(M.bootstrap_interval(torch.mean, torch.full((9,), 0.1))), [NAN, NAN]),
    "NaN in a kernel": (lambda: kernels.kernel_alignment(KERNEL * NAN, KERNEL), NAN),
    "NaN in features": (lambda: kernels.linear_cka(HOLED, X), NAN),
    "NaN in a rank": (lambda: kernels.effective_rank(KERNEL * NAN), NAN),
    "a rank of 0": (lambda: kernels.effective_rank(KERNEL * 0), 0.0),
    "away from a kernel of 0": (lambda: kernels.kernel_distance(KERNEL, KERNEL * 0), INF),
    "a kernel of 0 that stays": (lambda: kernels.kernel_distance(KERNEL * 0, KERNEL * 0), 0.0),
    "constant features": (lambda: kernels.linear_cka(X * 0, X), 0.0),
    "an untrained loss of NaN": (lambda: learning_rate_sensitivity([1.0], NAN), NAN),
    "NaN points": (lambda: diffusion_spectral_entropy(HOLED), NAN),
    "a point alone": (lambda: diffusion_spectral_entropy(X[:1]), 0.0),
    "NaN among samples": (lambda: mahalanobis_distances(HOLED, Y, X[:1]), [[NAN, NAN]]),
    "samples all alike": (lambda: mahalanobis_distances(X * 0, Y, X[:1]), [[0.0, 0.0]]),
    "classes that are too small": (lambda: information.knn_information(X, torch.arange(6)).label, NAN),
    "NaN in activity": (lambda: information.knn_information(HOLED, Y, neighbours=1).label, NAN),
    "NaN in collapse": (lambda: collapse(HOLED), [NAN] * 4),
    "means all alike": (lambda: collapse(X * 0, torch.eye(3)[:2]), [NAN, NAN, 0.0, NAN]),
}


@pytest.mark.parametrize("name", LIMITS)
def test_what_has_a_limit_is_that(name):
    attempt, expected = LIMITS[name]
    value = torch.as_tensor(attempt(), dtype=torch.float64)
    torch.testing.assert_close(value, torch.tensor(expected, dtype=torch.float64), equal_nan=True)


KINDS = [
    *(C.BayesianBinning, C.BetaCalibration, C.DirichletCalibration, C.EnsembleTemperatureScaling, C.HistogramBinning),
    *(C.IsotonicMulticlass, C.IsotonicRegression, C.MatrixScaling, C.PlattScaling, C.TemperatureScaling),
    C.VectorScaling,
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_masked_class_stays_masked_and_takes_nothing_from_the_others(kind):
    """Dirichlet calibration gave it a probability of 1, matrix scaling made NaN of the row."""
    generator = torch.Generator().manual_seed(0)
    target = torch.arange(30) % 3
    logits = torch.randn(30, 3, generator=generator) + nn.functional.one_hot(target, 3)
    calibrated = torch.softmax(kind().fit(logits, target)(t(2.0, -INF, 0.0)), dim=-1)
    assert calibrated[1] == 0 and calibrated.sum() == pytest.approx(1) and calibrated[0] > calibrated[2]
