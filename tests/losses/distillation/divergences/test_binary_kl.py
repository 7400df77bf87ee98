import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from lightning_losses.losses import BinaryKL
from tests.losses.strategies import gradient, pairs


@given(pairs(), st.floats(0.5, 5))
def test_gradient_in_closed_form(pair, temperature):
    s, t = ((z / temperature).sigmoid() for z in pair[:2])
    torch.testing.assert_close(gradient(BinaryKL(temperature), *pair[:2]), temperature * (s - t) / len(s))


@given(pairs())
def test_it_is_binary_cross_entropy_less_the_teachers_entropy(pair):
    t = pair.teacher_logits.sigmoid()
    entropy = torch.special.entr(t) + torch.special.entr(1 - t)
    expected = F.binary_cross_entropy_with_logits(pair.logits, t, reduction="none") - entropy
    value = BinaryKL(temperature=1.0)(*pair[:2])
    torch.testing.assert_close(value, expected.sum(dim=-1).mean(), rtol=1e-6, atol=1e-12)


@given(pairs(), st.floats(0.5, 5))
def test_it_sees_the_shift_of_the_logits(pair, shift):
    assert BinaryKL()(pair.logits, pair.logits).item() == 0
    assert BinaryKL()(pair.logits + shift, pair.logits).item() > 1e-6


def test_single_precision_keeps_the_digits_of_a_sure_teacher_and_of_a_near_one():
    loss = BinaryKL(temperature=1.0, reduction="none")
    student, teacher = torch.tensor([[12.3], [-12.3], [0.2], [7.0]]), torch.tensor([[12.0], [-12.0], [-0.1], [2.0]])
    torch.testing.assert_close(
        loss(student, teacher).double(), loss(student.double(), teacher.double()), rtol=1e-5, atol=0
    )
    teacher = torch.linspace(-3, 3, 200).unsqueeze(1)
    student = teacher + 0.01
    torch.testing.assert_close(
        loss(student, teacher).double(), loss(student.double(), teacher.double()), rtol=3e-4, atol=0
    )
    # Rounding would leave some of them below 0.
    draw = torch.Generator().manual_seed(0)
    teacher, away = 5 * torch.randn(300000, 1, generator=draw), torch.randn(300000, 1, generator=draw)
    assert loss(teacher + away.sign() * 10 ** (-6 - away.abs()), teacher).min() == 0
