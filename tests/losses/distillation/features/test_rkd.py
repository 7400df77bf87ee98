import math

import pytest
import torch
import torch.nn.functional as F

from lightning_losses.losses import RKD
from lightning_losses.losses.distillation.features.rkd import angles, relative_distances
from tests.losses.strategies import gradient


def vectors(n=5, d=3):
    return torch.randn(n, d, dtype=torch.float64)


def test_value_from_the_definition():
    student, teacher = vectors(), vectors(d=4)
    n, parts = len(student), []
    for x in (student, teacher):
        pairs = torch.stack([torch.stack([(x[i] - x[j]).norm() for j in range(n)]) for i in range(n)])
        triples = [
            F.cosine_similarity(x[j] - x[i], x[k] - x[i], dim=0) for i in range(n) for j in range(n) for k in range(n)
        ]
        parts.append((pairs / (pairs.sum() / (n * (n - 1))), torch.stack(triples)))
    expected = 25 * F.smooth_l1_loss(parts[0][0], parts[1][0]) + 50 * F.smooth_l1_loss(parts[0][1], parts[1][1])
    torch.testing.assert_close(RKD()(student, teacher), expected)


def test_rotation_shift_and_scale_do_not_matter():
    student, teacher = vectors(), vectors()
    rotation = torch.linalg.qr(vectors(3, 3)).Q
    torch.testing.assert_close(RKD()(3 * student @ rotation + 1, teacher), RKD()(student, teacher))
    assert RKD()(student @ rotation, student).item() < 1e-12


def test_distances_have_mean_one_and_angles_are_cosines():
    distances = relative_distances(vectors())
    torch.testing.assert_close(distances.sum() / 20, torch.ones((), dtype=torch.float64))
    corner = angles(torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]]))
    assert corner[0, 1, 2].item() == pytest.approx(math.cos(math.pi / 4))
    assert corner[1, 0, 2].item() == pytest.approx(0.0)


def test_equal_samples_have_a_finite_gradient():
    slope = gradient(RKD(), torch.ones(4, 3), torch.randn(4, 3))
    assert bool(torch.isfinite(slope).all())


def test_weights_select_the_parts():
    student, teacher = vectors(), vectors()
    both = RKD(angle_weight=0)(student, teacher) + RKD(distance_weight=0)(student, teacher)
    torch.testing.assert_close(both, RKD()(student, teacher))


@pytest.mark.parametrize("student, teacher", [((4, 3, 2), (4, 3)), ((4, 3), (5, 3)), ((4, 3), (4,))])
def test_features_that_do_not_fit_are_refused(student, teacher):
    with pytest.raises(ValueError, match="^rkd: (teacher_)?features of shape"):
        RKD()(torch.zeros(student), torch.zeros(teacher))


@pytest.mark.parametrize("option", ["distance_weight", "angle_weight"])
def test_negative_weights_are_refused(option):
    with pytest.raises(ValueError, match=f"^rkd: {option}=-1"):
        RKD(**{option: -1.0})
