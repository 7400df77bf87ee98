import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score

from lightning_losses.metrics import SubgroupAccuracy, accuracy_curve, balanced_accuracy, subgroup_accuracy

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(40, 3, generator=GENERATOR)
TARGET, GROUP = (torch.randint(0, 3, (40,), generator=GENERATOR) for _ in range(2))


def test_balanced_accuracy_is_that_of_scikit_learn():
    # A class of the network's that the data don't have counts nothing.
    value = balanced_accuracy(LOGITS.argmax(dim=-1), TARGET, 5)
    assert value.item() == pytest.approx(balanced_accuracy_score(TARGET, LOGITS.argmax(dim=-1)), abs=1e-12)


def test_the_metric_adds_over_batches_and_leaves_out_what_is_ignored():
    metric = SubgroupAccuracy(num_groups=4)
    target = TARGET.masked_fill(torch.arange(40) < 5, -100)
    for part in torch.arange(40).split(11):
        metric.update(LOGITS[part], target[part], GROUP[part])
    correct = LOGITS.argmax(dim=-1) == target
    expected = subgroup_accuracy(correct[5:], GROUP[5:], 4)
    torch.testing.assert_close(metric.compute(), expected, rtol=0, atol=0, equal_nan=True)
    assert [bool(number.isnan()) for number in expected] == [False, False, False, True]
    assert expected[1].item() == pytest.approx(float(correct[5:][GROUP[5:] == 1].double().mean()))


@pytest.mark.parametrize("degree", [1, 2])
def test_a_curve_is_the_polynomial_of_least_squares(degree):
    majority = torch.linspace(0.4, 0.9, 9, dtype=torch.float64)
    minority = 0.1 + 0.8 * majority**2 + 0.02 * torch.sin(40 * majority)
    curve = accuracy_curve(torch.cat([majority, majority.new_tensor([torch.nan])]),
                           torch.cat([minority, minority[:1]]), degree)  # fmt: skip
    fitted = np.polynomial.Polynomial.fit(majority, minority, degree).convert()
    assert curve.coefficients == pytest.approx(fitted.coef)
    left = float(((minority.numpy() - fitted(majority.numpy())) ** 2).sum())
    assert curve.r_squared == pytest.approx(1 - left / float(((minority - minority.mean()) ** 2).sum()))


def test_probit_makes_a_line_of_shifted_quantiles():
    quantiles = torch.linspace(-1, 1, 7, dtype=torch.float64)
    curve = accuracy_curve(
        torch.special.ndtr(quantiles), torch.special.ndtr(0.5 * quantiles - 0.7), degree=1, scale="probit"
    )
    assert (*curve.coefficients, curve.r_squared) == pytest.approx((-0.7, 0.5, 1.0))


@pytest.mark.parametrize(
    ("attempt", "told"),
    [
        (lambda: subgroup_accuracy(TARGET == 0, GROUP[:3], 3),
         "subgroup_accuracy: predictions of shape [40] came with groups of shape [3]; give one group for each sample."),
        (lambda: subgroup_accuracy(TARGET == 0, GROUP, 2),
         "subgroup_accuracy: group 2 came with num_groups=2; give 0 to 1."),
        (lambda: accuracy_curve(torch.rand(2), torch.rand(2), 2),
         "accuracy_curve: 2 models came for degree 2; give at least 3."),
        (lambda: accuracy_curve(torch.rand(2), torch.rand(3)),
         "accuracy_curve: accuracies of shape [2] and [3] came; give two of [models]."),
        (lambda: balanced_accuracy(TARGET[:1], TARGET, 3),
         "balanced_accuracy: predictions of shape [1] came with a target of shape [40]; give a class of each sample "
         "for both."),
        (lambda: SubgroupAccuracy(3).update(LOGITS, TARGET[:1], GROUP),
         "SubgroupAccuracy: predictions of shape [40] came with a target of shape [1]; give a class of each sample for "
         "both."),
        (lambda: SubgroupAccuracy(0), "SubgroupAccuracy: num_groups=0 came; give a whole number of at least 1."),
    ],
    ids=["shapes", "range", "few", "lengths", "one prediction", "one target", "none"],
)  # fmt: skip
def test_what_does_not_fit_is_refused(attempt, told):
    with pytest.raises(ValueError) as raised:
        attempt()
    assert str(raised.value) == told
