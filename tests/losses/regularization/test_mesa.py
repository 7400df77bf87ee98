import torch
from hypothesis import given

from lightning_losses.losses import KD, MESA, SAF
from tests.losses.strategies import gradient, pairs


@given(pairs())
def test_it_is_safs_term_with_a_teacher_and_kd_with_a_factor(pair):
    loss = MESA(coefficient=0.3, temperature=5.0, start=1, end=3)
    value = loss(pair.logits, pair.teacher_logits, 1, pair.target)
    torch.testing.assert_close(value, 0.3 * KD(5.0)(pair.logits, pair.teacher_logits, pair.target))
    torch.testing.assert_close(value, SAF(0.3, 5.0, start=1)(pair.logits, pair.teacher_logits, 1, pair.target))


def test_outside_of_its_epochs_it_has_no_gradient():
    logits, loss = torch.tensor([[2.0, -1.0]]), MESA(start=1, end=3)
    for epoch in (0, 3):
        assert not gradient(loss, logits, -logits, epoch).any()
