import pytest
import torch

from lightning_losses.numerics.equiangular import equiangular_basis, welch_bound


@pytest.mark.parametrize(
    ("vectors", "dim", "above"),
    # Orthogonal, a simplex, an icosahedron's axes, and some that no closed form has.
    [(3, 5, 0.0), (5, 5, 0.0), (6, 5, 0.0), (1, 1, 0.0), (2, 1, 0.0), (6, 3, 0.01), (30, 10, 0.07)],
)
def test_the_largest_cosine_is_as_near_as_can_be_to_the_least_possible(vectors, dim, above):
    basis = equiangular_basis(vectors, dim).double()
    cosines = basis @ basis.T
    torch.testing.assert_close(cosines.diagonal(), torch.ones(vectors, dtype=torch.float64), rtol=0, atol=1e-6)
    others = cosines.fill_diagonal_(0.0).abs().max()
    assert welch_bound(vectors, dim) - 1e-6 <= others <= welch_bound(vectors, dim) + above + 1e-6
    if vectors == dim + 1 > 2:
        assert bool((cosines[~torch.eye(vectors, dtype=torch.bool)] < 0).all())


def test_it_is_the_same_for_the_same_seed_whatever_was_drawn_before():
    assert torch.equal(equiangular_basis(7, 3), equiangular_basis(7, 3))
    assert not torch.equal(equiangular_basis(7, 3), equiangular_basis(7, 3, seed=1))


@pytest.mark.parametrize("vectors", [3, 4])
def test_another_default_device_changes_nothing(vectors):
    with torch.device("meta"):
        basis = equiangular_basis(vectors, 3)
    assert torch.equal(basis, equiangular_basis(vectors, 3))
