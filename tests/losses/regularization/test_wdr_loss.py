import pytest
import scipy.stats
import torch
from torch import nn

from lightning_losses import CrossEntropy, Objective
from lightning_losses.losses import WDR
from lightning_losses.losses.regularization.wdr_loss import layer_weights, weight_moments
from lightning_losses.modules import Classifier


def test_moments_are_those_of_scipy():
    weight = torch.randn(20, 7, dtype=torch.float64).exp()
    moments = weight_moments(weight)
    unbiased = (1 - 1 / weight.numel()) ** 0.5  # scipy's standard deviation is the biased one
    kurtosis = scipy.stats.kurtosis(weight.flatten(), fisher=False) * unbiased**4
    assert moments.kurtosis.item() == pytest.approx(kurtosis)
    assert moments.skewness.item() == pytest.approx(scipy.stats.skew(weight.flatten()) * unbiased**3)


def test_uniform_weights_are_free_and_normal_ones_are_not():
    assert WDR()(torch.linspace(-1, 1, 10001, dtype=torch.float64)).item() < 1e-6
    normal = torch.distributions.Normal(0.0, 1.0).icdf(torch.linspace(1e-5, 1 - 1e-5, 100001, dtype=torch.float64))
    # (3 - 1.8)²; the tails are cut.
    assert WDR(kurtosis_weight=1.0)(normal).item() == pytest.approx(1.44, rel=2e-2)


def test_scale_and_shift_do_not_matter():
    weight = torch.randn(5, 4, dtype=torch.float64)
    torch.testing.assert_close(WDR()(-3 * weight + 2), WDR()(weight))


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e30])
def test_no_scale_is_too_large_or_too_small_for_float32(scale):
    weight = torch.randn(20, 7)
    scaled = (weight * scale).requires_grad_()
    value = WDR()(scaled)
    value.backward()
    torch.testing.assert_close(value, WDR()(weight), rtol=1e-4, atol=1e-6)
    assert scaled.grad.isfinite().all()


@pytest.mark.parametrize("value", [0.1, 1e-3, 0.3])
def test_equal_weights_have_no_shape_whatever_they_are(value):
    # Their mean is none of them, by its rounding.
    assert WDR()(torch.full((4096,), value)).item() == pytest.approx(0.015 * 1.8**2)


def test_layers_are_averaged():
    first, second = torch.randn(5, 4), torch.randn(3, 2, 3, 3)
    expected = (WDR()(first) + WDR()(second)) / 2
    torch.testing.assert_close(WDR()({"a": first, "b": second}), expected)


@pytest.mark.parametrize("weight", [torch.full((3, 3), 2.0), torch.ones(1)])
def test_equal_weights_have_no_gradient(weight):
    weight.requires_grad_()
    (slope,) = torch.autograd.grad(WDR()(weight), weight)
    assert bool((slope == 0).all())


def test_a_module_gives_its_layers_but_the_first_and_the_losses():
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    assert list(layer_weights(network)) == ["2", "4"]
    module = Classifier(network, Objective({"ce": CrossEntropy(), "wdr": WDR()}), num_classes=3)
    step = {"inputs": torch.randn(5, 4), "target": torch.tensor([0, 1, 2, 0, 1])}
    expected = nn.functional.cross_entropy(network(step["inputs"]), step["target"])
    expected = expected + WDR()({"a": network[2].weight, "b": network[4].weight})
    torch.testing.assert_close(module.training_step(step, 0)["loss"], expected)


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="^wdr_loss: kurtosis_target=0.5"):
        WDR(kurtosis_target=0.5)
    with pytest.raises(ValueError, match="^wdr_loss: no weights came"):
        WDR()({})
