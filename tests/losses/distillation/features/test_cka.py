import pytest
import torch

from lightning_losses.losses import CKA
from tests.losses.strategies import gradient


def vectors(n=6, d=3):
    return torch.randn(n, d, dtype=torch.float64)


def test_value_from_the_definition():
    student, teacher = vectors(), vectors(d=4)
    x, y = (f - f.mean(dim=0) for f in (student, teacher))
    similarity = (y.T @ x).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm())
    torch.testing.assert_close(CKA()(student, teacher), 1 - similarity)


def test_rotation_shift_and_scale_do_not_matter():
    student, teacher = vectors(), vectors()
    rotation = torch.linalg.qr(vectors(3, 3)).Q
    torch.testing.assert_close(CKA()(3 * student @ rotation + 1, teacher), CKA()(student, teacher))
    assert abs(CKA()(student @ rotation, student).item()) < 1e-12


def test_it_lies_between_zero_and_one():
    for _ in range(20):
        assert 0 <= CKA()(vectors(), vectors(d=5)).item() <= 1


def test_rounding_leaves_it_at_zero_or_above():
    same = [torch.randn(8, 6, generator=torch.Generator().manual_seed(seed)) for seed in range(20)]
    assert min(CKA()(features, features).item() for features in same) >= 0


def test_unrelated_structure_is_one():
    student = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]])
    teacher = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]])
    assert CKA()(student, teacher).item() == 1


def test_constant_features_have_a_finite_gradient():
    assert bool(torch.isfinite(gradient(CKA(), torch.ones(4, 3), torch.randn(4, 3))).all())


@pytest.mark.parametrize("student, teacher", [((4, 3, 2), (4, 3)), ((4, 3), (5, 3))])
def test_features_that_do_not_fit_are_refused(student, teacher):
    with pytest.raises(ValueError, match="^cka: (teacher_)?features of shape"):
        CKA()(torch.zeros(student), torch.zeros(teacher))
