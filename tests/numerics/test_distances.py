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
    one, several = (torch.autograd.functional.jacobian(unit_rows, vectors, vectorize=way) for way in (False, True))
    torch.testing.assert_close(several, one)


def test_autocast_leaves_a_backward_pass_its_precision():
    vectors, upstream = torch.randn(4, 8, requires_grad=True), torch.randn(4, 8)
    (expected,) = torch.autograd.grad(unit_rows(vectors), vectors, upstream)
    with torch.autocast("cpu", torch.bfloat16):
        (gradient,) = torch.autograd.grad(unit_rows(vectors), vectors, upstream)
    assert torch.equal(gradient, expected)


def test_distances_are_those_of_the_differences():
    a, b = torch.randn(2, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(distances(a, b), (a[:, None] - b).norm(dim=-1))


def test_beside_a_row_of_any_size_the_others_are_as_without_it():
    rows = torch.randn(30, 100, generator=torch.Generator().manual_seed(0))
    outcomes = []
    # To the bit, so that copies tie whatever is beside them.
    for beside in (torch.zeros(0, 100), torch.zeros(1, 100), torch.full((1, 100), 1e30)):
        vectors = torch.cat([rows, beside]).requires_grad_()
        unit = unit_rows(vectors)
        outcomes.append((unit[:30], torch.autograd.grad(unit[:, 0].sum(), vectors)[0][:30]))
    for others in outcomes[1:]:
        torch.testing.assert_close(others, outcomes[0], rtol=0, atol=0)


def test_equal_vectors_have_distance_0_and_no_gradient():
    vectors = torch.tensor([[1.0, 2.0], [1.0, 2.0]], requires_grad=True)
    apart = distances(vectors, vectors)
    assert not apart.any() and not torch.autograd.grad(apart.sum(), vectors)[0].any()
