import pytest
import torch
from sklearn import metrics as M

from lightning_losses.losses import AnyLoss

TARGET = torch.tensor([1, 0, 0, 1, 0, 1, 0, 0])
PREDICTED = torch.tensor([1, 1, 0, 0, 0, 1, 0, 0])
HARD = 50.0 * torch.nn.functional.one_hot(PREDICTED, 2).double()
SKLEARN = {
    "accuracy": M.accuracy_score,
    "f_beta": lambda y, p: M.fbeta_score(y, p, beta=2.0),
    "geometric_mean": lambda y, p: (M.recall_score(y, p) * M.recall_score(y, p, pos_label=0)) ** 0.5,
    "balanced_accuracy": M.balanced_accuracy_score,
}


@pytest.mark.parametrize("metric", SKLEARN)
def test_of_hard_predictions_it_is_the_metric(metric):
    loss = AnyLoss(metric, beta=2.0, amplification=1e3)
    assert loss(HARD, TARGET).item() == pytest.approx(1 - SKLEARN[metric](TARGET, PREDICTED), abs=1e-12)


def test_of_more_classes_it_is_the_mean_of_each_against_the_rest():
    target, predicted = torch.tensor([0, 1, 2, 2, 1, 0]), torch.tensor([0, 1, 1, 2, 2, 0])
    logits = 50.0 * torch.nn.functional.one_hot(predicted, 4).double()
    # The fourth class has no positives, and counts nothing.
    expected = 1 - M.f1_score(target, predicted, average="macro", labels=[0, 1, 2])
    assert AnyLoss(amplification=1e3)(logits, target).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("metric", SKLEARN)
@pytest.mark.parametrize("label", [0, 1])
def test_a_batch_of_one_class_has_a_value_only_where_the_metric_has(metric, label):
    logits = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    value = AnyLoss(metric, amplification=5.0)(logits, torch.full((4,), label))
    (gradient,) = torch.autograd.grad(value, logits)
    defined = metric == "accuracy" or (metric == "f_beta" and label == 1)
    assert bool((gradient != 0).any()) == defined and (value.item() == 0) != defined


def test_the_geometric_mean_has_a_finite_slope_at_0():
    logits = torch.tensor([[0.0, 900.0], [900.0, 0.0]], requires_grad=True)
    value = AnyLoss("geometric_mean", amplification=1e4)(logits, torch.tensor([0, 1]))
    assert value.item() == pytest.approx(1, abs=1e-5) and bool(torch.autograd.grad(value, logits)[0].isfinite().all())


@pytest.mark.parametrize("beta", [1e-200, 1e20, 1e200])
def test_a_beta_of_any_size_is_precision_or_recall(beta):
    logits, target = torch.randn(8, 2, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 2
    yes = torch.sigmoid(73 * (logits.softmax(-1)[:, 1] - 0.5))
    right = (yes * target).sum() / (target.sum() if beta > 1 else yes.sum())
    torch.testing.assert_close(AnyLoss("f_beta", beta=beta)(logits, target), 1 - right)
