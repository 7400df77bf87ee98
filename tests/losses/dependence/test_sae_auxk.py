import pytest
import torch

from lightning_losses.losses import SAEAuxK

GENERATOR = torch.Generator().manual_seed(0)
X, MADE, LEARNED = torch.randn(3, 5, 3, dtype=torch.float64, generator=GENERATOR)
DEAD = torch.tensor([False, True])


def test_value_and_gradient_from_the_definition():
    x, made, learned = (tensor.clone().requires_grad_() for tensor in (X, MADE, LEARNED))
    value = SAEAuxK(coefficient=0.5)(x, made, learned, DEAD)
    left = sum(float((X[i] - MADE[i] - LEARNED[i]).square().sum()) for i in range(5))
    assert value.item() == pytest.approx(0.5 * left / float(X.var(dim=0, correction=0).sum() * 5))
    slopes = torch.autograd.grad(value, [x, made, learned], allow_unused=True)
    assert slopes[0] is None and slopes[1] is None
    torch.testing.assert_close(slopes[2], -(X - MADE - LEARNED) / (5 * X.var(dim=0, correction=0).sum()))


def test_it_is_0_where_none_is_dead_and_where_the_dead_explain_the_rest():
    learned = LEARNED.clone().requires_grad_()
    value = SAEAuxK()(X, MADE, learned, ~DEAD & DEAD)
    assert value == 0 and torch.autograd.grad(value, learned)[0].eq(0).all()
    assert SAEAuxK()(X, MADE, X - MADE, DEAD).item() == pytest.approx(0, abs=1e-30)
    assert SAEAuxK()(X[:1], MADE[:1], learned[:1], DEAD) == 0
    # Scale does not matter.
    torch.testing.assert_close(SAEAuxK()(9 * X, 9 * MADE, 9 * LEARNED, DEAD), SAEAuxK()(X, MADE, LEARNED, DEAD))


def test_other_shapes_are_refused():
    with pytest.raises(ValueError) as error:
        SAEAuxK()(X, MADE[:2], LEARNED, DEAD)
    told = "give features, reconstruction and dead_reconstruction of one shape [B, D]."
    assert str(error.value) == f"sae_auxk: reconstruction of shape [2, 3] came; {told}"
