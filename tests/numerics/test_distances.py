import torch

from lightning_losses.numerics.distances import distances, unit_rows


def test_rows_of_any_size_have_length_1_and_finite_gradients():
    vectors = torch.tensor([[1e-30, 0.0], [3e30, 4e30], [0.0, 0.0]], requires_grad=True)
    unit = unit_rows(vectors)
    torch.testing.assert_close(unit, torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 0.0]]))
    gradient = torch.autograd.grad(unit.sum(), vectors)[0]
    assert gradient.isfinite().all() and not gradient[2].any()


def test_directions_have_first_and_second_derivatives():
    vectors = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(unit_rows, vectors) and torch.autograd.gradgradcheck(unit_rows, vectors)


def test_distances_are_those_of_the_differences():
    a, b = torch.randn(2, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(distances(a, b), (a[:, None] - b).norm(dim=-1))


def test_beside_a_row_of_any_size_the_others_are_as_without_it():
    rows = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    outcomes = []
    for vectors in (rows, torch.cat([rows, torch.full((1, 4), 1e30)])):
        vectors.requires_grad_()
        unit = unit_rows(vectors)
        outcomes.append((unit[:3], torch.autograd.grad(unit[:, 0].sum(), vectors)[0][:3]))
    torch.testing.assert_close(*outcomes)


def test_equal_vectors_have_distance_0_and_no_gradient():
    vectors = torch.tensor([[1.0, 2.0], [1.0, 2.0]], requires_grad=True)
    apart = distances(vectors, vectors)
    assert not apart.any() and not torch.autograd.grad(apart.sum(), vectors)[0].any()
