import pytest
import torch

from lightning_losses.metrics.ranked_labels import (
    PrecisionAtK,
    label_propensities,
    precision_at_k,
    propensity_scored_precision_at_k,
)

GENERATOR = torch.Generator().manual_seed(0)
SCORES = torch.randn(6, 9, generator=GENERATOR, dtype=torch.float64)
LABELS = torch.rand(6, 9, generator=GENERATOR) < 0.4


def test_values_from_the_definition():
    propensities = torch.linspace(0.1, 1, 9, dtype=torch.float64)
    for k in (1, 3, 9):
        right, gained, best = [], 0.0, 0.0
        for row, has in zip(SCORES.tolist(), LABELS.tolist(), strict=True):
            top = sorted(range(9), key=lambda label, row=row: -row[label])[:k]
            right.append(sum(has[label] for label in top) / k)
            gained += sum(float(1 / propensities[label]) for label in top if has[label])
            worth = sorted((float(1 / propensities[label]) for label in range(9) if has[label]), reverse=True)
            best += sum(worth[:k])
        assert precision_at_k(SCORES, LABELS, k).tolist() == pytest.approx(right)
        assert float(propensity_scored_precision_at_k(SCORES, LABELS, propensities, k)) == pytest.approx(gained / best)
    # All labels are alike: plain precision, as a share of the best.
    even = propensity_scored_precision_at_k(SCORES, LABELS, torch.ones(9), 3)
    most = precision_at_k(LABELS.double(), LABELS, 3).sum()
    torch.testing.assert_close(even, precision_at_k(SCORES, LABELS, 3).sum() / most)


def test_a_label_that_is_common_has_a_propensity_near_1():
    propensities = label_propensities(torch.tensor([0, 1, 10, 10**9]), 10**4)
    assert propensities.tolist() == sorted(propensities.tolist()) and propensities[-1] > 0.99 and propensities[0] > 0


def test_batches_add_up():
    metric = PrecisionAtK(3)
    for part in (slice(0, 4), slice(4, 6)):
        metric.update(SCORES[part], LABELS[part])
    torch.testing.assert_close(metric.compute(), precision_at_k(SCORES, LABELS, 3).mean())


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: precision_at_k(SCORES, LABELS[:, :8], 3), "precision_at_k: scores of shape [6, 9] came with multi_hot "
         "of shape [6, 8] and k=3; give [samples, labels] twice, and a k of at most the number of labels."),
        (lambda: precision_at_k(SCORES * torch.nan, LABELS, 3), "precision_at_k: scores hold NaN, which has no rank; "
         "find the layer that produces it."),
        (lambda: propensity_scored_precision_at_k(SCORES, LABELS, torch.zeros(9), 3), "propensity_scored_precision_at_"
         "k: propensities of shape [9] came for 9 labels; give a number above 0 and at most 1 for each."),
        (lambda: label_propensities(-torch.ones(3), 9), "label_propensities: counts of shape [3] came; give a number "
         "of at least 0 for each label."),
    ],
    ids=["shapes", "nan", "propensities", "counts"],
)  # fmt: skip
def test_what_does_not_fit_is_refused(call, told):
    with pytest.raises(ValueError) as error:
        call()
    assert str(error.value) == told
