import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given

from lightning_losses.losses import CrossEntropy
from tests.losses.strategies import gradient, one_hot, pairs


@given(pairs())
def test_gradient_in_closed_form(pair):
    expected = (pair.logits.softmax(dim=-1) - one_hot(pair.target, pair.logits)) / len(pair.logits)
    torch.testing.assert_close(gradient(CrossEntropy(), pair.logits, pair.target), expected)


@given(pairs())
def test_it_is_torch_with_every_option(pair):
    classes = pair.logits.shape[-1]
    weight = torch.linspace(0.5, 2.0, classes, dtype=torch.float64)
    value = CrossEntropy(class_weight=weight, label_smoothing=0.2)(pair.logits, pair.target)
    expected = F.cross_entropy(pair.logits, pair.target, weight=weight, label_smoothing=0.2)
    torch.testing.assert_close(value, expected)


@given(pairs())
def test_one_hot_probabilities_are_class_indices(pair):
    soft = one_hot(pair.target, pair.logits)
    torch.testing.assert_close(
        CrossEntropy(label_smoothing=0.1)(pair.logits, soft),
        CrossEntropy(label_smoothing=0.1)(pair.logits, pair.target),
    )


@given(pairs())
def test_smoothing_is_a_smoothed_target(pair):
    soft = 0.7 * one_hot(pair.target, pair.logits) + 0.3 / pair.logits.shape[-1]
    torch.testing.assert_close(
        CrossEntropy(label_smoothing=0.3)(pair.logits, pair.target), CrossEntropy()(pair.logits, soft)
    )


@pytest.mark.parametrize("read", [True, False], ids=["where values are read", "where they are not"])
def test_masked_classes_are_as_if_absent(read, monkeypatch):
    """With every option beside every other: as torch has it on the classes that are left, computed either way."""
    if not read:
        monkeypatch.setattr("lightning_losses.numerics.probabilities._read", lambda *_: None)
    logits = torch.randn(4, 5, dtype=torch.float64)
    soft, weight = torch.randn(4, 5, dtype=torch.float64).softmax(dim=-1), torch.linspace(0.5, 2.0, 5)
    wider, weights = F.pad(logits, (0, 2), value=-torch.inf), torch.cat([weight, torch.tensor([3.0, 0.0])])
    targets = {"indices": (torch.tensor([0, 4, 2, 2]),) * 2, "probabilities": (soft, F.pad(soft, (0, 2)))}
    for smoothing, weighted, (target, padded), reduction in itertools.product(
        (0.0, 0.1, 1.0), (False, True), targets.values(), ("mean", "sum", "none")
    ):
        options = {"label_smoothing": smoothing, "reduction": reduction}
        expected = F.cross_entropy(logits, target, weight=weight.double() if weighted else None, **options)
        found = CrossEntropy(weights if weighted else None, **options)(wider, padded)
        torch.testing.assert_close(found, expected)


def test_masked_classes_get_no_gradient_and_a_target_there_is_infinite():
    logits = torch.tensor([[2.0, 1.0, -torch.inf, 0.5]], requires_grad=True)
    value = CrossEntropy(label_smoothing=0.1)(logits, torch.tensor([[0.5, 0.5, 0.0, 0.0]]))
    value.backward()
    assert bool(torch.isfinite(logits.grad).all()) and logits.grad[0, 2] == 0
    assert CrossEntropy()(logits, torch.tensor([[0.5, 0.5, 0.0, 0.0]])).item() == pytest.approx(0.9644, abs=1e-4)
    assert CrossEntropy(label_smoothing=0.1)(logits, torch.tensor([0])).item() == pytest.approx(0.5477, abs=1e-4)
    for target in (torch.tensor([2]), torch.tensor([[0.9, 0.0, 0.1, 0.0]])):
        assert CrossEntropy(label_smoothing=0.1)(logits, target).item() == torch.inf


@pytest.mark.parametrize("weight", [[1.0, -0.5], [1.0, float("nan")], torch.tensor([float("inf"), 1.0])])
def test_class_weights_below_0_are_refused(weight):
    with pytest.raises(ValueError, match=r"^cross_entropy: class_weight=\[.*\] came; give finite numbers"):
        CrossEntropy(class_weight=weight)


def test_class_weights_with_only_ignored_samples_give_zero():
    loss = CrossEntropy(class_weight=[1.0, 2.0])
    assert loss(torch.zeros(2, 2), torch.tensor([-100, -100])).item() == 0


def test_a_mean_with_class_weights_divides_by_the_mass_of_the_classes():
    loss, target = CrossEntropy(class_weight=[0.5, 4.0]), torch.tensor([0, 1, -100, 1])
    assert float(loss.denominator(logits=torch.zeros(4, 2), target=target)) == 8.5


@pytest.mark.parametrize(
    "options, message",
    [
        ({"label_smoothing": 1.5}, "label_smoothing=1.5"),
        ({"label_smoothing": -0.1}, "label_smoothing=-0.1"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=f"^cross_entropy: {message}"):
        CrossEntropy(**options)


def test_class_weights_of_another_length_are_refused():
    with pytest.raises(ValueError, match=r"^cross_entropy: class_weight of shape \[3\].*2 classes"):
        CrossEntropy(class_weight=[1.0, 1.0, 1.0])(torch.zeros(1, 2), torch.tensor([0]))


def test_class_weights_are_as_exact_as_the_logits():
    logits, target, weights = torch.randn(6, 3, dtype=torch.float64), torch.arange(6) % 3, [0.1, 0.7, 1 / 3]
    # Not a bit of half precision stays in them.
    loss = CrossEntropy(class_weight=weights).half().double()
    wanted = torch.nn.functional.cross_entropy(logits, target, torch.tensor(weights, dtype=torch.float64))
    torch.testing.assert_close(loss(logits, target), wanted, rtol=1e-14, atol=0)
    torch.testing.assert_close(loss(logits.float(), target), wanted.float())
