import math

import pytest
import torch
import torch.nn.functional as F

from lightning_losses.losses import ArcFace, NormalizedSoftmax
from lightning_losses.losses.margins.arcface import with_angular_margin

COSINES = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).tanh()
TARGET = torch.tensor([0, 2, 1, 2])


def test_the_margin_is_added_to_the_angle_of_the_target():
    angles = COSINES.acos() + 0.4 * F.one_hot(TARGET, 3)
    assert angles.max() < math.pi
    expected = F.cross_entropy(7 * angles.cos(), TARGET)
    torch.testing.assert_close(ArcFace(margin=0.4, scale=7.0)(COSINES, TARGET), expected)


def test_no_margin_is_normalized_softmax():
    torch.testing.assert_close(
        ArcFace(margin=0.0, scale=20.0)(COSINES, TARGET), NormalizedSoftmax(temperature=0.05)(COSINES, TARGET)
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str)
def test_values_and_gradients_are_finite_and_right_at_both_ends(dtype):
    logits = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=dtype, requires_grad=True)
    value = ArcFace(margin=0.5, scale=2.0, reduction="none")(logits, torch.tensor([0, 0]))
    expected = [math.log1p(math.exp(-2 * math.cos(0.5))), math.log1p(math.exp(2 + math.sin(0.5)))]
    torch.testing.assert_close(value.double(), torch.tensor(expected, dtype=torch.float64), rtol=2e-6, atol=0)
    (slope,) = torch.autograd.grad(value.sum(), logits)
    assert bool(slope.isfinite().all()) and bool((slope[:, 0] < 0).all())


def test_what_becomes_of_the_cosine_grows_with_it_beyond_an_angle_of_pi():
    cosine = torch.linspace(-1, 1, 201, dtype=torch.float64, requires_grad=True)
    turned = with_angular_margin(cosine, 0.5)
    (slope,) = torch.autograd.grad(turned.sum(), cosine)
    assert bool((slope > 0).all())
    beyond = cosine < -math.cos(0.5)
    assert 0 < beyond.sum() < 20
    torch.testing.assert_close(turned[beyond], cosine[beyond] - 0.5 * math.sin(0.5))
