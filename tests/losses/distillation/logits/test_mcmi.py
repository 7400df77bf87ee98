import math

import pytest
import torch
from hypothesis import given

from lightning_losses.losses import MCMI
from lightning_losses.losses.distillation.logits.mcmi import class_centroids, class_sums
from tests.losses.strategies import gradient, pairs


def mcmi(centroids):
    """The loss with these centroids."""
    loss = MCMI(num_classes=len(centroids)).to(centroids.dtype)
    loss.centroids.copy_(centroids)
    return loss


def centroids_of(logits, target):
    classes = logits.shape[-1]
    uniform = torch.full((classes, classes), 1 / classes, dtype=logits.dtype)
    return class_centroids(*class_sums(logits, target), uniform)


@given(pairs(max_scale=3.0))
def test_gradient_in_closed_form(pair):
    centroids = pair.teacher_logits.softmax(dim=-1)[:1].expand(pair.logits.shape[-1], -1)
    log_p = pair.logits.log_softmax(dim=-1)
    difference = log_p - centroids.log()[pair.target]
    value = (log_p.exp() * difference).sum(dim=-1, keepdim=True)
    expected = -log_p.exp() * (difference - value) / len(log_p)
    torch.testing.assert_close(gradient(mcmi(centroids), pair.logits, pair.target), expected)


@given(pairs(min_rows=2))
def test_it_is_the_mutual_information_given_the_class(pair):
    """Of sample and predicted class, sample by sample, with the class means of the very batch: between 0 and log C."""
    information = -mcmi(centroids_of(pair.logits, pair.target))(pair.logits, pair.target).item()
    p = pair.logits.softmax(dim=-1)
    expected = 0.0
    for label in pair.target.unique():
        own = p[pair.target == label]
        marginal = own.mean(dim=0)
        expected += len(own) / len(p) * (torch.special.entr(marginal).sum() - torch.special.entr(own).sum(-1).mean())
    assert information == pytest.approx(float(expected), abs=1e-9)
    assert -1e-12 <= information <= math.log(p.shape[-1]) + 1e-12


@given(pairs())
def test_no_information_where_a_class_shares_one_prediction(pair):
    shared = pair.logits[:1].expand(len(pair.logits), -1)
    assert mcmi(centroids_of(shared, pair.target))(shared, pair.target).abs().item() < 1e-10


def test_a_class_without_samples_keeps_its_centroid():
    logits, previous = torch.zeros(2, 3), torch.tensor([[0.6, 0.3, 0.1]] * 3)
    centroids = class_centroids(*class_sums(logits, torch.tensor([0, 2])), previous)
    torch.testing.assert_close(centroids, torch.tensor([[1 / 3] * 3, [0.6, 0.3, 0.1], [1 / 3] * 3]))


def test_the_centroids_are_saved():
    loss = MCMI(num_classes=2)
    assert list(loss.state_dict()) == ["centroids"]


def test_another_number_of_classes_is_refused():
    with pytest.raises(ValueError, match=r"^mcmi: centroids of shape \[3, 3\] came with 2 classes"):
        MCMI(num_classes=3)(torch.zeros(1, 2), torch.tensor([0]))
