import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_losses.losses import KD, BinaryKL, GroupKD
from tests.losses.strategies import gradient, pairs


@given(pairs(), st.floats(0.5, 5))
def test_one_group_of_all_classes_is_kd(pair, temperature):
    expected = KD(temperature=temperature, reduction="none")(*pair[:2])
    torch.testing.assert_close(GroupKD(temperature=temperature, reduction="none")(*pair[:2]), expected)


@given(pairs(min_classes=5))
def test_it_is_the_mean_of_the_groups(pair):
    parts = [slice(0, 2), slice(2, 5)]
    each = [KD(temperature=2.0)(pair.logits[:, part], pair.teacher_logits[:, part]) for part in parts]
    found = GroupKD(groups=[[1, 0], [4, 2, 3]], temperature=2.0)(*pair[:2])
    torch.testing.assert_close(found, (each[0] + each[1]) / 2)


@given(pairs(min_classes=5), st.floats(-20, 20))
def test_the_weight_between_groups_is_left_free(pair, shift):
    loss = GroupKD(groups=[[0, 1], [2, 3]], temperature=1.5)
    moved = pair.logits + torch.tensor([shift, shift, 0.0, 0.0, *[7.0] * (pair.logits.shape[-1] - 4)])
    # Logits up to 28 in size lose digits by the shift.
    torch.testing.assert_close(loss(moved, pair.teacher_logits), loss(*pair[:2]), rtol=1e-9, atol=1e-11)
    assert bool((gradient(loss, *pair[:2])[:, 4:] == 0).all())


@given(pairs(), st.floats(0.5, 4))
def test_a_class_alone_is_compared_by_its_sigmoid(pair, temperature):
    # binary_kl is a sum over classes, here of one.
    found = GroupKD(groups=[[1]], temperature=temperature, reduction="none")(*pair[:2])
    expected = BinaryKL(temperature=temperature, reduction="none")(pair.logits[:, 1:2], pair.teacher_logits[:, 1:2])
    torch.testing.assert_close(found, expected)
    assert found.abs().max() > 0


def test_a_group_that_the_teacher_lacks_counts_for_nothing():
    teacher = torch.tensor([[1.0, 2.0, -torch.inf, -torch.inf]])
    logits = torch.tensor([[2.0, 1.0, 0.0, 1.0]], requires_grad=True)
    value = GroupKD(groups=[[0, 1], [2, 3]])(logits, teacher)
    torch.testing.assert_close(value, KD(temperature=1.0)(logits[:, :2], teacher[:, :2]) / 2)
    value.backward()
    assert bool(torch.isfinite(logits.grad).all())


def test_a_group_that_the_student_lacks_counts_100_nats():
    teacher = torch.tensor([[1.0, 2.0, 0.0, 0.0, 0.0]])
    logits = torch.tensor([[2.0, 1.0, -torch.inf, -torch.inf, -torch.inf]], requires_grad=True)
    value = GroupKD(groups=[[0, 1], [2, 3], [4]])(logits, teacher)
    # 100 less the entropy of a pair, and of a class alone half of 100 less its entropy.
    lacking = 150 - 2 * torch.tensor(2.0).log()
    torch.testing.assert_close(value, (KD(temperature=1.0)(logits[:, :2], teacher[:, :2]) + lacking) / 3)
    value.backward()
    assert bool((logits.grad[0, 2:] == 0).all()) and bool(torch.isfinite(logits.grad).all())


@pytest.mark.parametrize("groups", [[], [[]], [[0, 1], [1, 2]], [[0, -1]], [[0.5]]])
def test_bad_groups_are_refused(groups):
    with pytest.raises(ValueError, match=r"^group_kd: groups=\["):
        GroupKD(groups=groups)


def test_a_group_beyond_the_classes_is_refused():
    with pytest.raises(ValueError, match="^group_kd: groups name class 5, but 3 classes came"):
        GroupKD(groups=[[0, 5]])(torch.zeros(2, 3), torch.zeros(2, 3))
