import math

import pytest
import torch

from lightning_losses.metrics import (
    PredictionSetMetrics,
    classwise_coverage,
    interval_coverage,
    interval_width,
    set_coverage,
    set_size,
    size_stratified_violation,
)

GENERATOR = torch.Generator().manual_seed(0)
SETS = torch.rand(200, 4, generator=GENERATOR) < 0.6
TARGET = torch.randint(0, 4, (200,), generator=GENERATOR)


def test_values_from_the_definitions():
    held = [bool(row[label]) for row, label in zip(SETS, TARGET, strict=True)]
    assert set_coverage(SETS, TARGET).item() == pytest.approx(sum(held) / 200)
    assert set_size(SETS, TARGET).item() == pytest.approx(SETS.sum().item() / 200)
    for label, share in enumerate(classwise_coverage(SETS, TARGET).tolist()):
        of_class = [hit for hit, target in zip(held, TARGET.tolist(), strict=True) if target == label]
        assert share == pytest.approx(sum(of_class) / len(of_class))
    by_size = [[hit for hit, row in zip(held, SETS, strict=True) if max(row.sum(), 1) == size] for size in range(1, 5)]
    worst = max(abs(sum(hits) / len(hits) - 0.8) for hits in by_size if len(hits) >= 20)
    assert size_stratified_violation(SETS, TARGET, alpha=0.2).item() == pytest.approx(worst)


def test_batches_add_up_and_ignored_rows_count_for_nothing():
    metric = PredictionSetMetrics(num_classes=4, alpha=0.2)
    ignored = torch.cat([TARGET, torch.full((10,), -100)])
    for part in (slice(0, 50), slice(50, 210)):
        metric.update(torch.cat([SETS, ~SETS[:10]])[part], ignored[part])
    found = metric.compute()
    assert found["coverage"] == set_coverage(SETS, TARGET) and found["set_size"] == set_size(SETS, TARGET)
    assert found["worst_class_coverage"] == classwise_coverage(SETS, TARGET).min()
    assert found["size_stratified_violation"] == size_stratified_violation(SETS, TARGET, alpha=0.2)
    assert found["empty"].item() == pytest.approx((SETS.sum(-1) == 0).float().mean().item())
    metric = PredictionSetMetrics(num_classes=4)
    metric.update(SETS[:0], TARGET[:0])
    assert all(math.isnan(value) for value in metric.compute().values())


def test_intervals():
    intervals = torch.tensor([[0.0, 1.0], [2.0, 6.0], [-torch.inf, torch.inf]])
    assert interval_coverage(intervals, torch.tensor([1.0, 1.0, 5.0])).item() == pytest.approx(2 / 3)
    assert interval_width(intervals[:2]).item() == 2.5
    for place in range(3):
        numbers = torch.tensor([0.0, 1.0, 0.5])
        numbers[place] = torch.nan
        assert interval_coverage(numbers[:2].unsqueeze(0), numbers[2:]).isnan()


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (
            lambda: set_size(SETS.float(), TARGET),
            "set_size: sets came as torch.float32 of shape [200, 4]; give bool [..., C], True where a class is in the "
            "set.",
        ),
        (
            lambda: set_coverage(SETS, TARGET[:, None]),
            "set_coverage: target came as torch.int64 of shape [200, 1] with sets of shape [200, 4]; give int64 class "
            "indices [200].",
        ),
        (
            lambda: classwise_coverage(SETS, TARGET + 1),
            "classwise_coverage: targets from 1 to 4 came with 4 classes; give 0 to 3, or ignore_index=-100.",
        ),
        (
            lambda: PredictionSetMetrics(3).update(SETS, TARGET),
            "PredictionSetMetrics: sets of shape [200, 4] came; give [..., 3], as many as num_classes.",
        ),
        (
            lambda: interval_coverage(torch.zeros(3, 2), torch.zeros(3, 1)),
            "interval_coverage: intervals of shape [3, 2] came with regression_target of shape [3, 1]; give [..., 2] "
            "and [...].",
        ),
        (
            lambda: interval_width(torch.zeros(3)),
            "interval_width: intervals of shape [3] came; give [..., 2], both ends of each.",
        ),
    ],
    ids=["dtype", "target", "range", "classes", "shape", "ends"],
)
def test_what_does_not_fit_is_told(call, told):
    with pytest.raises(ValueError) as caught:
        call()
    assert str(caught.value) == told
