import pytest
import torch

from lightning_losses.losses import CRPSGaussian, Pinball

Y = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)


def test_value_from_the_definition():
    levels, quantiles = (0.1, 0.7), torch.tensor([[0.5, 1.5], [0.0, 1.0], [0.5, -0.5]], dtype=torch.float64)
    expected = [
        sum(max(level * (y - q), (level - 1) * (y - q)) for level, q in zip(levels, row, strict=True))
        for y, row in zip(Y.tolist(), quantiles.tolist(), strict=True)
    ]
    torch.testing.assert_close(Pinball(levels, reduction="none")(quantiles, Y), torch.tensor(expected).double())


def test_the_median_costs_half_the_absolute_error():
    assert Pinball([0.5])(torch.zeros(3, 1).double(), Y).item() == pytest.approx(Y.abs().mean().item() / 2)


def test_the_slope_at_the_quantile_is_that_of_one_too_high():
    quantiles = torch.zeros(1, 1, requires_grad=True)
    assert torch.autograd.grad(Pinball([0.9])(quantiles, torch.zeros(1)), quantiles)[0].item() == pytest.approx(0.1)


def test_the_quantile_of_the_sample_costs_least():
    sample = torch.linspace(0, 1, 101, dtype=torch.float64)
    tried = torch.linspace(0, 1, 1001, dtype=torch.float64)
    cost = Pinball([0.8], reduction="none")(tried[:, None, None].expand(-1, 101, 1), sample.expand(1001, -1)).mean(
        dim=-1
    )
    assert tried[cost.argmin()].item() == pytest.approx(0.8, abs=2e-3)


def test_over_many_levels_it_tends_to_half_the_crps():
    count = 999
    levels = [(step + 0.5) / count for step in range(count)]
    normal = torch.distributions.Normal(torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64))
    quantiles = normal.icdf(torch.tensor(levels, dtype=torch.float64)).expand(3, -1)
    mean = Pinball(levels, quantile_reduction="mean", reduction="none")(quantiles, Y)
    crps = CRPSGaussian(reduction="none")(torch.zeros_like(Y), torch.ones_like(Y), Y)
    torch.testing.assert_close(2 * mean, crps, rtol=1e-3, atol=0)


@pytest.mark.parametrize("levels", [(0.5, 0.1), (0.0, 0.5), (0.5, 1.0), (0.5, 0.5), (), "0.5", (float("nan"),)])
def test_levels_out_of_order_are_refused(levels):
    with pytest.raises(ValueError) as caught:
        Pinball(levels)
    assert str(caught.value) == (
        f"pinball: levels={levels!r} came; give rising numbers between 0 and 1, such as (0.05, 0.5, 0.95)."
    )


def test_shapes_that_would_broadcast_are_refused():
    for quantiles, target, told in (
        ((3, 3), (3, 1), "quantiles of shape [3, 3] came with regression_target of shape [3, 1]; give quantiles of "
         "shape [3, 1, Q]."),
        ((3, 2), (3,), "2 quantiles of each number came with 3 levels; give one quantile for each level."),
    ):  # fmt: skip
        with pytest.raises(ValueError) as caught:
            Pinball()(torch.zeros(quantiles), torch.zeros(target))
        assert str(caught.value) == f"pinball: {told}"
