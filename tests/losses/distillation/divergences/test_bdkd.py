import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_losses.losses import BDKD, KD, ForwardKL, ReverseKL
from lightning_losses.losses.distillation.divergences.bdkd import bdkd_weights
from lightning_losses.numerics.divergences import entropy
from tests.losses.strategies import gradient, pairs

temperatures = st.floats(0.5, 8.0)


@given(pairs(), temperatures, st.floats(1.0, 4.0))
def test_gradient_in_closed_form(pair, temperature, boost):
    log_s, log_t = ((z / temperature).log_softmax(dim=-1) for z in pair[:2])
    s, t = log_s.exp(), log_t.exp()
    weights = bdkd_weights(entropy(log_s), entropy(log_t), boost=boost)
    reverse = (s * (log_s - log_t)).sum(dim=-1, keepdim=True)
    expected = weights.forward[:, None] * (s - t) + weights.reverse[:, None] * s * (log_s - log_t - reverse)
    slope = gradient(BDKD(boost, temperature=temperature), *pair[:2])
    torch.testing.assert_close(slope, temperature * expected / len(s))


@given(pairs(), temperatures)
def test_without_boost_it_is_jeffreys_divergence(pair, temperature):
    both = ForwardKL(temperature=temperature, tau_squared=True)(*pair[:2]) + ReverseKL(
        temperature=temperature, tau_squared=True
    )(*pair[:2])
    torch.testing.assert_close(BDKD(boost=1.0, temperature=temperature)(*pair[:2]), both)


@given(pairs(), temperatures)
def test_swapping_the_networks_does_not_change_the_value(pair, temperature):
    """The boost goes to the divergence under the less certain network, whoever that is."""
    value = BDKD(temperature=temperature)(pair.logits, pair.teacher_logits)
    torch.testing.assert_close(BDKD(temperature=temperature)(pair.teacher_logits, pair.logits), value)


@given(pairs(), st.floats(1.0, 5.0))
def test_a_boost_never_lowers_the_loss(pair, boost):
    each = BDKD(boost=boost, reduction="none")(*pair[:2])
    assert bool((each >= BDKD(boost=1.0, reduction="none")(*pair[:2]) - 1e-12).all())
    weights = bdkd_weights(*(entropy((z / 4).log_softmax(dim=-1)) for z in pair[:2]), boost=boost)
    assert set(torch.cat(weights).tolist()) <= {1.0, boost}


def test_the_boost_follows_the_entropies():
    sure, unsure = torch.tensor([0.1]), torch.tensor([0.6])
    assert [w.item() for w in bdkd_weights(sure, unsure, boost=3.0)] == [3.0, 1.0]
    assert [w.item() for w in bdkd_weights(unsure, sure, boost=3.0)] == [1.0, 3.0]
    assert [w.item() for w in bdkd_weights(sure, sure, boost=3.0)] == [1.0, 1.0]


@given(pairs())
def test_zero_and_stationary_at_the_teacher(pair):
    assert BDKD()(pair.logits, pair.logits).item() == 0
    assert gradient(BDKD(), pair.logits, pair.logits).abs().max() < 1e-12


@given(pairs(), temperatures)
def test_the_peer_learns_by_kd_from_the_student(pair, temperature):
    """KL(s || t) by the peer's logits: τ (t - s) / N."""
    s, t = ((z / temperature).softmax(dim=-1) for z in pair[:2])
    slope = gradient(lambda z: KD(temperature=temperature)(z, pair.logits), pair.teacher_logits)
    torch.testing.assert_close(slope, temperature * (t - s) / len(s))


def test_entropies_may_be_compared_at_another_temperature():
    # At temperature 1 the first is surer, at 10 the second.
    a, b = torch.tensor([[6.0, 5.0, -60.0]]), torch.tensor([[6.0, 0.0, 0.0]])
    cold = BDKD(temperature=10.0, entropy_temperature=1.0)(a, b)
    same = BDKD(temperature=10.0)(a, b)
    assert abs(cold.item() - same.item()) > 1e-3


@pytest.mark.parametrize("options", [{"boost": -1.0}, {"base": -1.0}, {"entropy_temperature": 0.0}])
def test_bad_options_are_refused(options):
    with pytest.raises(ValueError, match=f"^bdkd: {next(iter(options))}"):
        BDKD(**options)
