import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_losses.losses import NKD
from tests.losses.strategies import gradient, one_hot, pairs

gammas, temperatures = st.floats(0, 4), st.floats(0.5, 6.0)


def others(logits, target, temperature):
    return (logits / temperature).scatter(-1, target[:, None], -torch.inf).softmax(dim=-1)


@given(pairs(), gammas, temperatures)
def test_gradient_in_closed_form(pair, gamma, temperature):
    label = one_hot(pair.target, pair.logits)
    s, t_y = pair.logits.softmax(dim=-1), (label * pair.teacher_logits.softmax(dim=-1)).sum(dim=-1, keepdim=True)
    apart = others(pair.logits, pair.target, temperature) - others(pair.teacher_logits, pair.target, temperature)
    expected = (t_y * (s - label) + gamma * temperature * apart) / len(s)
    torch.testing.assert_close(gradient(NKD(gamma, temperature), *pair), expected)


@given(pairs(min_classes=3))
def test_it_decouples_the_cross_entropy_to_the_teacher(pair):
    """-sum t log s = -t_y log s_y + (1 - t_y) (other classes' cross-entropy - log(1 - s_y)), at temperature 1."""
    t, log_s = pair.teacher_logits.softmax(dim=-1), pair.logits.log_softmax(dim=-1)
    t_y = t.gather(-1, pair.target[:, None]).squeeze(-1)
    rest = torch.log1p(-log_s.gather(-1, pair.target[:, None]).squeeze(-1).exp())
    target_term = NKD(gamma=0.0, reduction="none")(*pair)
    other_term = NKD(gamma=1.0, reduction="none")(*pair) - target_term
    # 1 - s_y loses digits where s_y is near 1.
    torch.testing.assert_close(
        target_term + (1 - t_y) * (other_term - rest), -(t * log_s).sum(dim=-1), rtol=1e-6, atol=1e-9
    )


@given(pairs())
def test_the_teacher_is_not_stationary(pair):
    """The target's term still pushes towards the label; the value is -t_y log t_y + γ τ² H(t̂)."""
    t = pair.logits.softmax(dim=-1).gather(-1, pair.target[:, None]).squeeze(-1)
    t_hat = others(pair.logits, pair.target, 2.0)
    expected = -t * t.log() + 1.5 * 4 * torch.special.entr(t_hat).sum(dim=-1)
    torch.testing.assert_close(NKD(temperature=2.0)(pair.logits, pair.logits, pair.target), expected.mean())
    slope = gradient(NKD(temperature=2.0), pair.logits, pair.logits, pair.target)
    assert bool((slope.gather(-1, pair.target[:, None]) < 0).all())


@given(pairs())
def test_two_classes_leave_the_target_term(pair):
    two = (pair.logits[:, :2], pair.teacher_logits[:, :2], pair.target.clamp(max=1))
    assert torch.equal(NKD(gamma=7.0)(*two), NKD(gamma=0.0)(*two))


@given(pairs(), st.floats(-30, 30))
def test_shifts_do_not_matter(pair, shift):
    moved = NKD()(pair.logits + shift, pair.teacher_logits - shift, pair.target)
    torch.testing.assert_close(moved, NKD()(*pair))


@given(pairs())
def test_mixed_labels_count_as_their_largest_class(pair):
    mixed = 0.7 * one_hot(pair.target, pair.logits) + 0.3 / pair.logits.shape[-1]
    assert torch.equal(NKD()(pair.logits, pair.teacher_logits, mixed), NKD()(*pair))


def test_one_class_is_refused():
    with pytest.raises(ValueError, match=r"^nkd: logits of shape \[2, 1\].*at least 2 classes"):
        NKD()(torch.zeros(2, 1), torch.zeros(2, 1), torch.zeros(2, dtype=torch.long))


def test_negative_gamma_is_refused():
    with pytest.raises(ValueError, match="^nkd: gamma=-1"):
        NKD(gamma=-1)
