"""The moving average whose rate follows from weights and gradients: its rule, its fallback, and its state."""

import pytest
import torch

from lightning_losses.optim.dynamic_ema import DynamicAverage


def steps(count, shape=(3, 40)):
    generator = torch.Generator().manual_seed(3)
    return [tuple(torch.randn(2, *shape, dtype=torch.float64, generator=generator)) for _ in range(count)]


def test_the_rate_is_that_of_the_rule():
    average, expected, before, rates = DynamicAverage(fallback=0.05), None, None, []
    for weight, gradient in steps(6) + [(torch.zeros(3, 40).double(), gradient) for _, gradient in steps(3)]:
        if expected is None:
            expected = weight.clone()
        else:
            distance, change = float((weight - expected).abs().sum()), float((gradient - before).abs().sum())
            rate = 2 * (1 + float(gradient.abs().sum())) / (distance * change) if distance * change else 0.0
            rates.append(rate)
            rate = rate if 0 < rate < 1 else 0.05
            expected = (1 - rate) * expected + rate * weight
        before = gradient.clone()
        average.update_({"w": weight}, {"w": gradient})
        torch.testing.assert_close(average.average["w"], expected)
    assert 0 < min(rates) < 1


def test_a_rate_that_is_none_falls_back():
    average, zero = DynamicAverage(fallback=0.25), torch.zeros(2)
    average.update_({"w": zero}, {"w": zero})
    # The gradient stands still: infinity.
    average.update_({"w": zero + 8}, {"w": zero})
    torch.testing.assert_close(average.average["w"], torch.full((2,), 2.0))
    # Nothing over nothing.
    average.update_({"w": average.average["w"].clone()}, {"w": zero})
    torch.testing.assert_close(average.average["w"], torch.full((2,), 2.0))
    # Not finite: the average is not spoiled by the rate.
    average.update_({"w": zero + 6}, {"w": torch.full((2,), torch.nan)})
    torch.testing.assert_close(average.average["w"], torch.full((2,), 3.0))


def test_tensors_have_rates_of_their_own_and_half_precision_averages_are_wide():
    average = DynamicAverage(fallback=0.001)
    for value in (1.0, 2.0):
        weights = {"a": torch.full((4,), value, dtype=torch.bfloat16), "b": torch.full((2,), value)}
        average.update_(weights, {name: torch.zeros_like(weight) for name, weight in weights.items()})
    assert average.average["a"].dtype == torch.float32
    torch.testing.assert_close(average.average["a"], torch.full((4,), 1.001))
    parameters = {"a": torch.nn.Parameter(torch.zeros(4, dtype=torch.bfloat16)), "c": torch.nn.Parameter(torch.ones(1))}
    average.put_into_(parameters)
    assert parameters["a"].tolist() == [1.0] * 4 and parameters["c"].item() == 1


def test_the_state_goes_on_where_it_was():
    whole, first, second = DynamicAverage(), DynamicAverage(), DynamicAverage()
    data = steps(6)
    for weight, gradient in data:
        whole.update_({"w": weight}, {"w": gradient})
    for weight, gradient in data[:3]:
        first.update_({"w": weight}, {"w": gradient})
    second.load_state_dict(first.state_dict())
    for weight, gradient in data[3:]:
        second.update_({"w": weight}, {"w": gradient})
    torch.testing.assert_close(second.average["w"], whole.average["w"], rtol=0, atol=0)


def test_a_fallback_out_of_range_is_refused():
    with pytest.raises(ValueError, match="^dynamic_ema: fallback=1.0 came"):
        DynamicAverage(1.0)
