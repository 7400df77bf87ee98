import pytest
import torch
import torch.nn.functional as F

from lightning_losses.losses import SimilarityPreserving
from tests.losses.strategies import gradient

KINDS = pytest.mark.parametrize("similarity", ["rows", "cosine"])


def vectors(n=5, d=3):
    return torch.randn(n, d, dtype=torch.float64)


@KINDS
def test_value_from_the_definition(similarity):
    student, teacher = vectors(), vectors(d=4)
    matrices = []
    for x in (student, teacher):
        if similarity == "cosine":
            matrices.append(torch.stack([F.cosine_similarity(row.expand_as(x), x) for row in x]))
        else:
            matrices.append(torch.stack([x @ row / (x @ row).norm() for row in x]))
    expected = (matrices[0] - matrices[1]).norm() ** 2 / 25
    torch.testing.assert_close(SimilarityPreserving(similarity=similarity)(student, teacher), expected)


@KINDS
def test_rotation_and_scale_do_not_matter(similarity):
    student = vectors()
    rotation = torch.linalg.qr(vectors(3, 3)).Q
    loss = SimilarityPreserving(similarity)
    assert loss(3 * student @ rotation, student).item() < 1e-20
    assert loss(student + 1, student).item() > 1e-4


def test_cosines_do_not_see_the_length_of_each_sample():
    student, scale = vectors(), torch.arange(1, 6).double().unsqueeze(1)
    assert SimilarityPreserving("cosine")(scale * student, student).item() < 1e-20
    assert SimilarityPreserving("rows")(scale * student, student).item() > 1e-4


@KINDS
def test_features_of_zeros_are_finite(similarity):
    assert bool(torch.isfinite(gradient(SimilarityPreserving(similarity), torch.zeros(4, 3), torch.randn(4, 3))).all())


@pytest.mark.parametrize("student, teacher", [((4, 3, 2), (4, 3)), ((4, 3), (5, 3)), ((4, 3), (4,))])
def test_features_that_do_not_fit_are_refused(student, teacher):
    with pytest.raises(ValueError, match="^similarity_preserving: (teacher_)?features of shape"):
        SimilarityPreserving()(torch.zeros(student), torch.zeros(teacher))


def test_an_unknown_similarity_is_refused():
    with pytest.raises(ValueError, match="^similarity_preserving: similarity='dot'"):
        SimilarityPreserving("dot")
