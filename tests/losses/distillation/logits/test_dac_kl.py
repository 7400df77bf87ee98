import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_losses.losses import DACKL, KD
from lightning_losses.losses.distillation.logits.dac_kl import clipped_divergence, quantile_levels
from tests.losses.strategies import gradient, pairs


@given(pairs(), st.floats(0.5, 4))
def test_bounds_around_everything_are_kd(pair, temperature):
    expected = KD(temperature=temperature, reduction="none")(*pair[:2])
    for softness in (0.0, 1e-3):
        # From 0.5 widths outside on, a soft bound still weighs; ten widths away it doesn't.
        bounds = (0.0, 1.0) if softness == 0 else (-1.0, 2.0)
        softened = [logits / temperature for logits in pair[:2]]
        value = temperature**2 * clipped_divergence(*softened, *bounds, softness)
        torch.testing.assert_close(value, expected)


@given(pairs(min_classes=4))
def test_fixed_bounds_compare_the_classes_between_them(pair):
    count = pair.logits.shape[-1]
    order = pair.teacher_logits.argsort(dim=-1)
    inner = order[:, 1:-1]
    bounds = (0.5 / (count - 1), 1 - 0.5 / (count - 1))
    chosen = pair.logits.gather(1, inner), pair.teacher_logits.gather(1, inner)
    value = DACKL(count, bounds=bounds, reduction="none")(*pair[:2])
    torch.testing.assert_close(value, KD(temperature=1.0, reduction="none")(*chosen))
    slopes = gradient(DACKL(count, bounds=bounds), *pair[:2])
    outer = order[:, [0, -1]]
    assert bool((slopes.gather(1, outer) == 0).all())


@given(pairs(min_classes=3), st.integers(0, 2**31))
def test_the_bounds_are_in_order_and_learn(pair, seed):
    torch.manual_seed(seed % 1000)
    loss = DACKL(pair.logits.shape[-1]).double()
    lower, upper = loss.clipping(pair.teacher_logits)
    assert bool(((lower > 0) & (lower < upper) & (upper < 1)).all())
    loss(*pair[:2]).backward()
    assert sum(parameter.grad.abs().sum() for parameter in loss.parameters()) > 0


def test_the_bounds_gradient_is_that_of_finite_differences():
    generator = torch.Generator().manual_seed(0)
    logits, teacher = (torch.randn(3, 6, dtype=torch.float64, generator=generator) for _ in range(2))
    bounds = [torch.rand(3, 1, dtype=torch.float64, generator=generator).requires_grad_() for _ in range(2)]

    def evaluate(lower, upper):
        return clipped_divergence(logits, teacher, lower, upper, softness=0.1)

    assert torch.autograd.gradcheck(evaluate, bounds)


def test_a_uniform_teacher_is_compared_whole():
    logits, teacher = torch.randn(4, 5, dtype=torch.float64), torch.zeros(4, 5, dtype=torch.float64)
    for softness in (0.0, 0.05):
        value = clipped_divergence(logits, teacher, 0.2, 0.9, softness)
        torch.testing.assert_close(value, KD(temperature=1.0, reduction="none")(logits, teacher))


def test_a_row_of_which_nothing_is_left_counts_for_nothing():
    logits = torch.randn(2, 3, requires_grad=True)
    value = DACKL(3, bounds=(0.1, 0.4))(logits, torch.tensor([[3.0, 2.0, 1.0]] * 2))
    value.backward()
    assert value.item() == 0 and bool((logits.grad == 0).all())


def test_levels_are_places_among_the_sorted():
    values = torch.tensor([[3.0, 1.0, 2.0], [-torch.inf, -torch.inf, 0.0], [1.0, 1.0, 1.0]])
    assert quantile_levels(values).tolist() == [[1.0, 0.0, 0.5], [0.25, 0.25, 1.0], [0.5, 0.5, 0.5]]


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="^dac_kl: the lower bound=0.9 came; give a number at least 0 and at most 0.5"):
        DACKL(3, bounds=(0.9, 0.5))
    with pytest.raises(ValueError, match="^dac_kl: 4 classes came to a network that reads 3"):
        DACKL(3)(torch.zeros(2, 4), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="^dac_kl: softness=0"):
        DACKL(3, softness=0)
