"""Grokfast: closed forms, limits, and going on from a saved state."""

import pytest
import torch

from lightning_losses.optim.grokfast import GrokfastEMA, GrokfastMA


def gradients(steps=7):
    return [torch.randn(3, dtype=torch.float64) for _ in range(steps)]


def filtered(grokfast, sequence):
    copies = [{"w": gradient.clone()} for gradient in sequence]
    for step in copies:
        grokfast.filter_(step)
    return [step["w"] for step in copies]


@pytest.mark.parametrize("grokfast", [GrokfastEMA(lamb=0), GrokfastMA(lamb=0, window_size=2)])
def test_adding_nothing_changes_nothing(grokfast):
    sequence = gradients()
    for got, want in zip(filtered(grokfast, sequence), sequence, strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("grokfast", [GrokfastEMA(0.9, 2.0), GrokfastMA(3, 2.0, warmup=False)])
def test_a_constant_gradient_is_multiplied(grokfast):
    for got in filtered(grokfast, [torch.ones(3, dtype=torch.float64)] * 6):
        torch.testing.assert_close(got, torch.full((3,), 3.0, dtype=torch.float64))


def test_ema_is_its_closed_form():
    sequence, alpha, lamb = gradients(), 0.7, 1.5
    last = filtered(GrokfastEMA(alpha, lamb), sequence)[-1]
    weights = [alpha ** (len(sequence) - 1)]
    weights += [(1 - alpha) * alpha ** (len(sequence) - 1 - step) for step in range(1, len(sequence))]
    want = sequence[-1] + lamb * sum(w * g for w, g in zip(weights, sequence, strict=True))
    torch.testing.assert_close(last, want)


def test_a_window_of_one_multiplies():
    sequence = gradients()
    for got, want in zip(filtered(GrokfastMA(1, 2.0), sequence), sequence, strict=True):
        torch.testing.assert_close(got, 3 * want)


@pytest.mark.parametrize("filter_type", ["mean", "sum"])
def test_a_long_run_is_the_windows_average(filter_type):
    sequence = gradients(steps=50)
    results = filtered(GrokfastMA(4, 0.5, filter_type), sequence)
    for step in range(3, 50):
        window = torch.stack(sequence[step - 3 : step + 1])
        torch.testing.assert_close(results[step], sequence[step] + 0.5 * getattr(window, filter_type)(dim=0))


def test_the_window_waits_until_it_is_full():
    sequence = gradients(4)
    results = filtered(GrokfastMA(3, 2.0), sequence)
    assert torch.equal(results[1], sequence[1]) and not torch.equal(results[2], sequence[2])


def test_zeroing_gradients_in_place_does_not_reach_the_window():
    grokfast, gradient = GrokfastMA(2, 1.0), torch.ones(2)
    grokfast.filter_({"w": gradient})
    gradient.zero_()
    second = torch.full((2,), 3.0)
    grokfast.filter_({"w": second})
    assert second.tolist() == [5.0, 5.0]


@pytest.mark.parametrize("make", [lambda: GrokfastEMA(0.9, 2.0), lambda: GrokfastMA(3, 2.0)], ids=["ema", "ma"])
@pytest.mark.parametrize("at", [1, 2, 5])
def test_a_resumed_filter_goes_on_bit_by_bit(make, at):
    sequence = gradients()
    whole = filtered(make(), sequence)
    first, second = make(), make()
    filtered(first, sequence[:at])
    second.load_state_dict(first.state_dict())
    for got, want in zip(filtered(second, sequence[at:]), whole[at:], strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize(
    "make",
    [
        lambda: GrokfastEMA(alpha=1.0),
        lambda: GrokfastEMA(alpha=-0.1),
        lambda: GrokfastEMA(lamb=-1),
        lambda: GrokfastMA(window_size=0),
        lambda: GrokfastMA(filter_type="median"),
    ],
)
def test_settings_out_of_range_are_refused(make):
    with pytest.raises(ValueError, match="grokfast"):
        make()


def test_a_state_of_a_longer_window_is_refused():
    longer = GrokfastMA(window_size=3)
    filtered(longer, gradients())
    with pytest.raises(
        ValueError, match="grokfast_ma: a state of 3 gradients came with window_size=2; give window_size=3"
    ):
        GrokfastMA(window_size=2).load_state_dict(longer.state_dict())


@pytest.mark.parametrize("make", [lambda: GrokfastEMA(0.995, 1.0), lambda: GrokfastMA(300, 1.0, warmup=False)])
def test_an_average_of_half_precision_arrives(make):
    """In bfloat16 a step of 0.5 % rounds to none, and so does a 256th gradient beside the sum of the others."""
    grokfast = make()
    grokfast.filter_({"w": torch.zeros(1, dtype=torch.bfloat16)})
    for _ in range(1000):
        gradient = torch.ones(1, dtype=torch.bfloat16)
        grokfast.filter_({"w": gradient})
    assert gradient.item() == pytest.approx(2.0, abs=0.02) and gradient.dtype == torch.bfloat16
    again = make()
    again.load_state_dict(grokfast.state_dict())
    assert again.state_dict().keys() == grokfast.state_dict().keys()
