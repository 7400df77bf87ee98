"""What all metrics of predictions keep: batches, processes, order of rows, bad input, intervals."""

import inspect
import pickle
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch
from torch import Tensor

from lightning_losses import metrics as M
from tests.distributed.processes import in_group, run_on_processes
from tests.metrics.draws import drawn

CLASSES = 4
# Every metric class, as made for CLASSES classes, beside its function.
METRICS = {
    "ece": (lambda **k: M.ExpectedCalibrationError(**k), M.expected_calibration_error),
    "ece_mass": (
        lambda **k: M.ExpectedCalibrationError(binning="mass", **k),
        lambda *a, **k: M.expected_calibration_error(*a, binning="mass", **k),
    ),
    "mce": (lambda **k: M.MaximumCalibrationError(**k), M.maximum_calibration_error),
    "rmsce": (lambda **k: M.RMSCalibrationError(**k), M.rms_calibration_error),
    "rmsce_debiased": (
        lambda **k: M.RMSCalibrationError(debiased=True, **k),
        lambda *a, **k: M.rms_calibration_error(*a, debiased=True, **k),
    ),
    "norm_3": (lambda **k: M.CalibrationError(norm=3, **k), lambda *a, **k: M.calibration_error(*a, norm=3, **k)),
    "classwise": (lambda **k: M.ClasswiseCalibrationError(CLASSES, **k), M.classwise_calibration_error),
    "adaptive": (lambda **k: M.AdaptiveCalibrationError(**k), M.adaptive_calibration_error),
    "overconfidence": (lambda **k: M.OverconfidenceError(**k), M.overconfidence_error),
    "kernel": (
        lambda **k: M.KernelCalibrationError(bandwidth=0.5, **k),
        lambda *a, **k: M.kernel_calibration_error(*a, bandwidth=0.5, **k),
    ),
    "brier": (lambda **k: M.BrierScore(**k), M.brier_score),
    "nll": (lambda **k: M.NegativeLogLikelihood(**k), M.negative_log_likelihood),
    "aurc": (lambda **k: M.AreaUnderRiskCoverage(**k), M.area_under_risk_coverage),
    "e_aurc": (
        lambda **k: M.AreaUnderRiskCoverage(excess=True, **k),
        lambda *a, **k: M.area_under_risk_coverage(*a, excess=True, **k),
    ),
}
# With a setting of their own, so that they have no defaults.
ADAPTED = {"ece_mass", "rmsce_debiased", "norm_3", "kernel", "e_aurc"}
# Sums of float64 in another order: rounding only.
ROUNDING = {"rtol": 1e-12, "atol": 1e-13}

every = pytest.mark.parametrize("name", METRICS)


def sample(rows: int = 200) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    logits = 2 * torch.randn(rows, CLASSES, generator=generator, dtype=torch.float64)
    return logits, drawn(torch.softmax(logits / 2, -1), generator)


@every
def test_batches_add_up_to_the_function_of_all_rows(name):
    make, function = METRICS[name]
    logits, target = sample()
    metric = make(inputs="logits")
    for some in (slice(0, 7), slice(7, 120), slice(120, None)):
        metric.update(logits[some], target[some])
    torch.testing.assert_close(metric.compute(), function(logits, target, inputs="logits"), **ROUNDING)


@every
def test_the_order_of_the_rows_does_not_matter(name):
    _, function = METRICS[name]
    logits, target = sample()
    order = torch.randperm(len(target))
    torch.testing.assert_close(
        function(logits[order], target[order], inputs="logits"), function(logits, target, inputs="logits"), **ROUNDING
    )


@every
def test_logits_and_their_probabilities_are_the_same(name):
    _, function = METRICS[name]
    logits, target = sample()
    torch.testing.assert_close(
        function(logits, target, inputs="logits"),
        function(logits.softmax(-1), target, inputs="probabilities"),
        rtol=1e-10,
        atol=1e-12,
    )


@every
def test_ignored_rows_are_as_if_deleted(name):
    _, function = METRICS[name]
    logits, target = sample()
    kept = torch.arange(len(target)) % 3 != 0
    marked = target.masked_fill(~kept, -100)
    poisoned = logits.masked_fill(~kept.unsqueeze(-1), torch.nan)
    torch.testing.assert_close(
        function(poisoned, marked, inputs="logits"), function(logits[kept], target[kept], inputs="logits"), **ROUNDING
    )


@every
def test_half_precision_stays_close(name):
    _, function = METRICS[name]
    logits, target = sample()
    rounded = logits.bfloat16()
    # What bfloat16 rounds away is gone; what is left is computed in full precision.
    torch.testing.assert_close(
        function(rounded, target, inputs="logits"),
        function(rounded.double(), target, inputs="logits"),
        rtol=1e-4,
        atol=1e-5,
    )


@every
def test_the_interval_holds_the_value_and_narrows_with_data(name):
    make, _ = METRICS[name]
    widths = []
    for rows in (200, 1800):
        metric = make(inputs="logits", **({} if "kernel" in name or "aurc" in name else {"keep_rows": True}))
        metric.update(*sample(rows))
        if name == "mce":
            with pytest.raises(ValueError, match="no valid interval"):
                metric.interval()
            return
        low, high = metric.interval(level=0.99, resamples=60)
        assert low <= metric.compute() <= high
        assert low < high
        widths.append(float(high - low))
    assert widths[1] < widths[0]


@every
def test_no_samples_give_nan(name):
    _, function = METRICS[name]
    assert torch.isnan(function(torch.zeros(0, CLASSES), torch.zeros(0, dtype=torch.long), inputs="logits"))


@every
def test_what_is_not_a_number_makes_the_value_so_where_nobody_looks(name):
    """Also alone in its bin, and last in an order."""
    make, function = METRICS[name]
    logits, target = sample()
    logits[3, 1] = torch.nan
    metric = make(inputs="logits", validate=False)
    metric.update(logits, target)
    assert metric.compute().isnan()
    assert function(logits, target, inputs="logits", validate=False).isnan()
    if name not in {"classwise", "adaptive"}:
        pairs = (torch.tensor([0.1, torch.nan, 0.2, 0.3, 0.1]), torch.tensor([0, 1, 0, 1, 1]))
        assert function(*pairs, inputs="probabilities", task="binary", validate=False).isnan()


@every
def test_an_empty_batch_changes_nothing(name):
    make, function = METRICS[name]
    logits, target = sample()
    metric = make(inputs="logits")
    metric.update(logits, target)
    metric.update(logits[:0], target[:0])
    torch.testing.assert_close(metric.compute(), function(logits, target, inputs="logits"), **ROUNDING)


@every
def test_one_class_only_is_finite(name):
    _, function = METRICS[name]
    logits, _ = sample()
    assert torch.isfinite(function(logits, torch.zeros(len(logits), dtype=torch.long), inputs="logits"))


@every
@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        (torch.full((3, CLASSES), torch.nan), "NaN"),
        (torch.full((3, CLASSES), 0.5), "sum to 1"),
        (torch.full((3, CLASSES), -0.25), r"\[0, 1\]"),
        (torch.full((3, 2, CLASSES), 0.25), "shape"),
        (torch.ones(3, CLASSES, dtype=torch.long), "floating-point"),
        (torch.full((3, 2), 0.5), "targets from"),
    ],
)
def test_bad_probabilities_are_refused(name, predictions, message):
    _, function = METRICS[name]
    with pytest.raises(ValueError, match=message):
        function(predictions, torch.tensor([0, 1, 3]), inputs="probabilities")


@every
@pytest.mark.parametrize(
    ("logits", "target", "message"),
    [
        (torch.zeros(3, CLASSES), None, "target of type NoneType came"),
        (torch.zeros(3, CLASSES), torch.zeros(3), "target of type torch.float32 came"),
        (torch.zeros(3, 1), torch.zeros(3, dtype=torch.long), "fewer than two classes"),
        (torch.zeros(3, CLASSES), torch.tensor([0, 1, CLASSES]), f"targets from 0 to {CLASSES} came"),
        (torch.tensor([[0.0, torch.inf]]), torch.tensor([0]), r"\+inf, or rows of nothing but -inf"),
        (torch.tensor([[-torch.inf, -torch.inf]]), torch.tensor([0]), r"\+inf, or rows of nothing but -inf"),
    ],
)
def test_logits_without_a_softmax_and_targets_that_are_none_are_refused(name, logits, target, message):
    _, function = METRICS[name]
    with pytest.raises(ValueError, match=message):
        function(logits, target, inputs="logits")


@every
def test_a_masked_class_is_as_if_it_were_not_there(name):
    _, function = METRICS[name]
    logits, target = sample()
    masked = torch.cat([logits, torch.full((len(logits), 1), -torch.inf)], dim=-1)
    expected = function(logits, target, inputs="logits")
    if name in ("classwise", "adaptive"):
        # One more class, without a gap.
        expected = expected * CLASSES / (CLASSES + 1)
    torch.testing.assert_close(function(masked, target, inputs="logits"), expected, **ROUNDING)


@every
def test_what_the_predictions_are_must_be_said(name):
    make, function = METRICS[name]
    with pytest.raises(TypeError, match="inputs"):
        make()
    with pytest.raises(ValueError, match="inputs='scores'"):
        function(*sample(), inputs="scores")


@every
def test_metrics_pickle_clone_reset_and_plot(name):
    make, _ = METRICS[name]
    metric = make(inputs="logits")
    metric.update(*sample())
    value = metric.compute()
    copy = pickle.loads(pickle.dumps(metric))
    torch.testing.assert_close(copy.compute(), value, rtol=0, atol=0)
    figure, _ = metric.plot()
    plt.close(figure)
    copy.reset()
    copy.update(*sample(50))
    assert copy.compute() != value


def test_what_is_kept_is_not_what_the_caller_goes_on_changing():
    probabilities, target = torch.tensor([0.9, 0.6]), torch.tensor([1, 0])
    for metric in (M.ExpectedCalibrationError, M.KernelCalibrationError, M.AreaUnderRiskCoverage):
        made = metric(inputs="probabilities", task="binary", keep_rows=True)
        given = probabilities.double()
        made.update(given, target)
        expected = made.interval(resamples=10)
        given.zero_()
        assert torch.equal(torch.stack(made.interval(resamples=10)), torch.stack(expected))


def test_an_interval_needs_rows():
    metric = M.ExpectedCalibrationError(inputs="logits")
    metric.update(*sample())
    with pytest.raises(ValueError, match="keep_rows"):
        metric.interval()


def gathered(folder: Path) -> None:
    rank = torch.distributed.get_rank()
    logits, target = sample(101)
    share = slice(0, 67) if rank == 0 else slice(67, None)
    found = {}
    for name, (make, _) in METRICS.items():
        metric = make(inputs="logits")
        metric.update(logits[share], target[share])
        found[name] = metric.compute()
    kept = M.ExpectedCalibrationError(inputs="logits", keep_rows=True)
    kept.update(logits[share], target[share])
    found["interval"] = torch.stack(kept.interval(resamples=20))
    torch.save(found, folder / f"{rank}.pt")


@pytest.mark.distributed
def test_two_processes_have_the_value_of_one(tmp_path):
    run_on_processes(in_group, 2, gathered, tmp_path)
    logits, target = sample(101)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for name, (_, function) in METRICS.items():
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=0)
        torch.testing.assert_close(first[name], function(logits, target, inputs="logits"), **ROUNDING)
    one = M.ExpectedCalibrationError(inputs="logits", keep_rows=True)
    one.update(logits, target)
    torch.testing.assert_close(first["interval"], torch.stack(one.interval(resamples=20)), **ROUNDING)


@every
def test_a_class_has_the_defaults_of_its_function(name):
    make, function = METRICS[name]
    # The nearest class that names an option decides.
    defaults = {}
    for kind in reversed(type(make(inputs="logits")).__mro__[:-1]):
        defaults |= {name: p.default for name, p in inspect.signature(kind.__init__).parameters.items()}
    options = inspect.signature(function).parameters
    assert name in ADAPTED or "inputs" in options
    for option in options.keys() & defaults.keys():
        assert defaults[option] == options[option].default, option
