import pytest
import torch

from lightning_losses.diagnostics.voronoi_loss import voronoi_loss

TRUE, SHARE = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 9.0]]), torch.tensor([0.5, 0.25, 0.25])


def test_one_atom_counts_by_its_distance_and_several_by_the_squares():
    atoms = torch.tensor([[0.0, 0.5], [4.0, 0.5], [4.5, 0.0]])
    # The third true atom has no fitted one: its weight is missing.
    wanted = 0.25 + 0.0 + 0.25 + 0.5 * 0.5 + (0.3 + 0.2) * 0.25
    value = voronoi_loss(torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64), atoms, SHARE, TRUE)
    assert value.item() == pytest.approx(wanted, rel=1e-12)


def test_0_where_components_are_split_or_permuted():
    many = 10 * torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    assert voronoi_loss(torch.full((40,), 1 / 40), many, torch.full((40,), 1 / 40), many).item() == 0
    order = torch.tensor([2, 0, 1, 0])
    assert voronoi_loss(SHARE[order] / torch.tensor([1, 2, 1, 2]), TRUE[order], SHARE, TRUE).item() == 0


@pytest.mark.parametrize(
    ("atoms", "weights", "message"),
    [
        (TRUE[:, :1], SHARE, "atoms of 1 parameters came with true_atoms of 2; give both the same."),
        (TRUE, SHARE[:2], "weights of shape [2] came for 3 atoms; give one for each."),
    ],
)
def test_what_does_not_fit_is_refused(atoms, weights, message):
    with pytest.raises(ValueError) as error:
        voronoi_loss(weights, atoms, SHARE, TRUE)
    assert str(error.value) == f"voronoi_loss: {message}"
