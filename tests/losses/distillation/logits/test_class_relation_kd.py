import pytest
import torch

from lightning_losses.losses import ClassRelationKD


def logits(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def test_value_from_the_definition():
    new, old = logits(5, 7), logits(5, 4)
    unlabelled = torch.tensor([True, False, True, True, False])
    gate = (new / 0.4).softmax(dim=-1)[unlabelled, :4].sum(dim=-1)
    each = -((old / 0.4).softmax(dim=-1) * (new[:, :4] / 0.4).log_softmax(dim=-1)).sum(dim=-1)[unlabelled]
    expected = 16 * (gate / gate.mean() * each).mean()
    torch.testing.assert_close(ClassRelationKD()(new, old, unlabelled), expected)


def test_labelled_samples_do_not_count():
    new, old = logits(5, 7), logits(5, 4)
    unlabelled = torch.tensor([True, False, True, True, False])
    alone = ClassRelationKD()(new[unlabelled], old[unlabelled])
    torch.testing.assert_close(ClassRelationKD()(new, old, unlabelled), alone)


def test_without_unlabelled_samples_it_is_zero():
    new = logits(5, 7).requires_grad_()
    value = ClassRelationKD()(new, logits(5, 4), torch.zeros(5, dtype=torch.bool))
    assert value.item() == 0
    assert bool((torch.autograd.grad(value, new)[0] == 0).all())


def test_with_known_classes_alone_the_gate_is_open():
    new, old = logits(5, 4), logits(5, 4)
    each = -((old / 0.2).softmax(dim=-1) * (new / 0.2).log_softmax(dim=-1)).sum(dim=-1)
    torch.testing.assert_close(ClassRelationKD(temperature=2.0)(new, old), 4 * each.mean())


def test_a_gate_that_is_all_but_shut_is_finite():
    new = torch.zeros(3, 5)
    new[:, 4] = 1e4
    new.requires_grad_()
    value = ClassRelationKD()(new, torch.zeros(3, 4))
    assert torch.isfinite(value) and bool(torch.isfinite(torch.autograd.grad(value, new)[0]).all())


@pytest.mark.parametrize("old", [(5, 8), (4, 4), (5,)])
def test_teachers_that_do_not_fit_are_refused(old):
    with pytest.raises(ValueError, match="^class_relation_kd: teacher_logits of shape"):
        ClassRelationKD()(torch.zeros(5, 7), torch.zeros(old))


def test_options_and_masks_are_checked():
    with pytest.raises(ValueError, match="^class_relation_kd: unlabelled of shape"):
        ClassRelationKD()(torch.zeros(5, 7), torch.zeros(5, 4), torch.zeros(5))
    with pytest.raises(ValueError, match="^class_relation_kd: head_temperature=0"):
        ClassRelationKD(head_temperature=0)
