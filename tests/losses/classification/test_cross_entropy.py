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
