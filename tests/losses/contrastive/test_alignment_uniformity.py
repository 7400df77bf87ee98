import math

import pytest
import torch

from lightning_losses.losses import AlignmentUniformity

GENERATOR = torch.Generator().manual_seed(0)
X, Y = torch.randn(2, 7, 3, dtype=torch.float64, generator=GENERATOR)


def test_value_from_the_definition():
    (x, y) = (view / view.norm(dim=1, keepdim=True) for view in (X, Y))
    near = sum(math.dist(a, b) ** 3 for a, b in zip(x.tolist(), y.tolist(), strict=True)) / 7
    even = [torch.pdist(view).square().mul(-1.5).exp().mean().log().item() for view in (x, y)]
    value = AlignmentUniformity(power=3.0, t=1.5, alignment_weight=2.0, uniformity_weight=0.5)(X, Y)
    assert value.item() == pytest.approx(2 * near + 0.5 * sum(even) / 2)


def test_length_does_not_matter_nor_does_a_batch_of_one_have_uniformity():
    torch.testing.assert_close(AlignmentUniformity()(5 * X, 0.1 * Y), AlignmentUniformity()(X, Y))
    assert AlignmentUniformity()(X[:1], 2 * X[:1]).item() == pytest.approx(0, abs=1e-15)
    empty = torch.zeros(3, 2, dtype=torch.float64, requires_grad=True)
    value = AlignmentUniformity()(empty, X[:3, :2])
    assert torch.autograd.grad(value, empty)[0].isfinite().all()


def test_views_of_other_samples_are_refused():
    with pytest.raises(ValueError) as error:
        AlignmentUniformity()(X, Y[:3])
    told = "embeddings of shape [7, 3] came with embeddings_b of shape [3, 3]; give two views of the same samples."
    assert str(error.value) == f"alignment_uniformity: {told}"
