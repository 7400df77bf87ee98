import torch
from hypothesis import given

from lightning_losses.losses import ELR, CrossEntropy
from tests.losses.strategies import gradient, pairs


@given(pairs())
def test_value_from_the_definition(pair):
    before = 0.8 * pair.teacher_logits.softmax(dim=-1)
    p = pair.logits.softmax(dim=-1).clamp(1e-4, 1 - 1e-4)
    after = 0.6 * before + 0.4 * p / p.sum(dim=-1, keepdim=True)
    penalty = (1 - (after * p).sum(dim=-1)).log().mean()
    value = ELR(2.0, 0.6)(pair.logits, pair.target, before)
    torch.testing.assert_close(value, CrossEntropy()(pair.logits, pair.target) + 2 * penalty)


@given(pairs())
def test_without_its_term_it_is_cross_entropy(pair):
    before = 0.8 * pair.teacher_logits.softmax(dim=-1)
    value = ELR(coefficient=0.0)(pair.logits, pair.target, before)
    torch.testing.assert_close(value, CrossEntropy()(pair.logits, pair.target))


def test_targets_are_constants_and_begin_with_a_share_of_the_prediction():
    loss, logits = ELR(beta=0.7), torch.tensor([[1.0, 0.0, -1.0]], dtype=torch.float64)
    first = loss.next_targets(logits, torch.zeros(1, 3))
    torch.testing.assert_close(first, 0.3 * logits.softmax(dim=-1))
    fixed = ELR(1.0, 1.0)
    slope = gradient(lambda z: ELR(1.0, 0.7)(z, torch.tensor([0]), torch.zeros(1, 3)), logits)
    torch.testing.assert_close(slope, gradient(lambda z: fixed(z, torch.tensor([0]), first), logits))


def test_a_certain_prediction_has_a_finite_value():
    certain, target = torch.tensor([[1e4, -1e4]]), torch.tensor([1])
    for visits in range(50):
        before = torch.zeros(1, 2) if visits == 0 else ELR().next_targets(certain, before)
    assert before.sum() <= 1 and ELR()(certain, target, before).isfinite()
