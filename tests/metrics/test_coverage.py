"""How often intervals of nominal 95 % hold the truth: 200 data sets, at truth 0 and away from it."""

import pytest
import torch

from lightning_losses import metrics as M
from lightning_losses.metrics.bootstrap import proportion_interval
from lightning_losses.metrics.retrieval import retrieval_scores
from tests.metrics.draws import drawn

SETS, ROWS, CLASSES = 200, 250, 4
MANY = 100_000
KEPT = {"inputs": "logits", "keep_rows": True, "validate": False}
ERRORS = {
    "ece": M.ExpectedCalibrationError(**KEPT),
    "ece_mass": M.ExpectedCalibrationError(binning="mass", **KEPT),
    "rmsce": M.RMSCalibrationError(**KEPT),
    "rmsce_debiased": M.RMSCalibrationError(debiased=True, **KEPT),
    "classwise": M.ClasswiseCalibrationError(CLASSES, **KEPT),
    "adaptive": M.AdaptiveCalibrationError(**KEPT),
    "overconfidence": M.OverconfidenceError(**KEPT),
    "kernel": M.KernelCalibrationError(inputs="logits", bandwidth=0.5, validate=False),
}
SCORES = {
    "brier": M.BrierScore(**KEPT),
    "nll": M.NegativeLogLikelihood(**KEPT),
    "aurc": M.AreaUnderRiskCoverage(inputs="logits", validate=False),
    "e_aurc": M.AreaUnderRiskCoverage(inputs="logits", excess=True, validate=False),
}


def sample(rows, spread, sharpness, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(rows, CLASSES, generator=generator, dtype=torch.float64)
    return sharpness * logits, drawn(logits.softmax(-1), generator)


def held(metrics, truths, spread, sharpness, resamples):
    """The share of data sets of which the interval holds the truth, by metric; each interval holds its estimate."""
    counts = dict.fromkeys(metrics, 0)
    for seed in range(SETS):
        logits, target = sample(ROWS, spread, sharpness, seed)
        for name, metric in metrics.items():
            metric.reset()
            metric.update(logits, target)
            low, high = metric.interval(resamples=resamples, seed=seed)
            assert low <= metric.compute() <= high and (low >= 0 or name == "kernel"), (
                name,
                low,
                metric.compute(),
                high,
            )
            counts[name] += bool(low <= truths[name] <= high)
    return {name: count / SETS for name, count in counts.items()}


def values(metrics, spread, sharpness):
    """Of so many rows that noise is nothing."""
    found = {}
    for name, metric in metrics.items():
        metric.reset()
        metric.update(*sample(4000 if name == "kernel" else MANY, spread, sharpness, 10**6))
        found[name] = float(metric.compute())
    return found


def test_errors_of_a_calibrated_model():
    shares = held(ERRORS, dict.fromkeys(ERRORS, 0.0), 2.0, 1.0, resamples=100)
    assert all(0.9 <= share <= 0.99 for share in shares.values()), shares


def test_errors_of_an_overconfident_model():
    shares = held(ERRORS, values(ERRORS, 2.0, 2.5), 2.0, 2.5, resamples=100)
    assert all(0.9 <= share <= 0.99 for share in shares.values()), shares


@pytest.mark.parametrize("sharpness", [1.0, 2.0])
def test_errors_of_labels_that_come_together(sharpness):
    """Each label says the same of a sample, and is the same: drawn one by one, 3 intervals in 4 held the truth."""
    metric = M.ClasswiseCalibrationError(3, task="multilabel", **KEPT)

    def of(rows, seed):
        generator = torch.Generator().manual_seed(seed)
        logits = 2 * torch.randn(rows, 1, generator=generator, dtype=torch.float64)
        true = torch.rand(rows, 1, generator=generator, dtype=torch.float64) < logits.sigmoid()
        metric.reset()
        metric.update(sharpness * logits.expand(rows, 3), true.long().expand(rows, 3))
        return metric

    truth = 0.0 if sharpness == 1 else float(of(MANY, 10**6).compute())
    intervals = [of(150, seed).interval(resamples=40, seed=seed) for seed in range(50)]
    assert sum(bool(low <= truth <= high) for low, high in intervals) / 50 >= 0.9


# One sample in three is wrong, or nine of all: near an AURC of 0, quantiles of resamples alone hold too little.
@pytest.mark.parametrize(("spread", "names"), [(2.0, ("brier", "nll", "e_aurc")), (20.0, ("aurc", "e_aurc"))])
def test_scores(spread, names):
    scores = {name: SCORES[name] for name in names}
    shares = held(scores, values(scores, spread, 1.0), spread, 1.0, resamples=60)
    assert all(0.9 <= share <= 0.99 for share in shares.values()), shares


@pytest.mark.parametrize("errors", [0, 40])
def test_an_order_that_puts_every_error_last_has_an_excess_of_zero_and_no_interval_beyond(errors):
    confidence = torch.linspace(0.99, 0.51, 200)
    target = (torch.arange(200) < 200 - errors).long()
    metric = M.AreaUnderRiskCoverage(inputs="probabilities", task="binary", excess=True)
    metric.update(confidence, target)
    # Nothing that is drawn of it differs: it says nothing of how far it can be trusted.
    assert metric.compute() == 0 and all(torch.isnan(end) for end in metric.interval(resamples=20))


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.99])
def test_shares(share):
    generator = torch.Generator().manual_seed(0)
    shares = torch.bernoulli(torch.full((SETS, 300), share), generator=generator).double().mean(-1)
    low, high = proportion_interval(shares, 300, 0.95)
    assert ((low >= 0) & (high <= 1)).all()
    covered = float(((low <= share) & (share <= high)).double().mean())
    # A share of 0 is seen as 0 always.
    assert covered == 1 if share == 0 else 0.9 <= covered <= 0.99


@pytest.mark.parametrize("level", [0.0, 3.0, 9.0])
def test_retrieval(level):
    """Queries of 2 seeds, of which many, few, or one in a hundred are found; the seeds fail on the same ones."""

    def drawn_ranks(queries, seed):
        generator = torch.Generator().manual_seed(seed)
        hard = torch.randn(1, queries, generator=generator) + 0.5 * torch.randn(2, queries, generator=generator)
        return (level + 3 * hard).exp().ceil().clamp(1, 10**6).long()

    truths = {name: score.value for name, score in retrieval_scores(drawn_ranks(MANY, 10**6)).items()}
    counts = dict.fromkeys(truths, 0)
    for seed in range(SETS):
        for name, score in retrieval_scores(drawn_ranks(120, seed)).items():
            assert 0 <= score.low <= score.value <= score.high <= 1
            counts[name] += score.low <= truths[name] <= score.high
    assert all(0.9 <= count / SETS <= (0.99 if truths[name] > 0.05 else 1) for name, count in counts.items()), counts


def test_a_high_accuracy_has_an_interval_below_one():
    target = torch.zeros(100, dtype=torch.long)
    target[0] = 1
    intervals = M.calibration_intervals(torch.tensor([[3.0, 0.0]]).repeat(100, 1), target, inputs="logits")
    assert 0.9 < intervals["accuracy"].low < 0.99 < intervals["accuracy"].high < 1
    assert all(torch.isnan(end) for end in intervals["mce"])
