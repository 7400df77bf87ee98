import copy

import pytest
import torch
import torch.nn.functional as F

from lightning_losses.losses import NDLoss
from tests.losses.strategies import gradient


def vectors(*shape):
    return torch.randn(*shape, dtype=torch.float64)


TARGET = torch.tensor([0, 1, 1, 2])


def nd_loss(student, teacher, target, means):
    return NDLoss(num_classes=3).to(means).set_class_means(means)(student, teacher, target)


def test_long_features_count_by_direction_alone():
    teacher, means = vectors(4, 3), vectors(3, 3)
    student = F.normalize(vectors(4, 3), dim=-1) * (teacher.norm(dim=-1, keepdim=True) + 1)
    expected = (1 - F.cosine_similarity(student, means[TARGET])).mean()
    torch.testing.assert_close(nd_loss(student, teacher, TARGET, means), expected)
    torch.testing.assert_close(nd_loss(5 * student, teacher, TARGET, 7 * means), expected)


def test_short_features_count_by_length_too():
    teacher, means = vectors(4, 3), vectors(3, 3)
    student = F.normalize(vectors(4, 3), dim=-1) * teacher.norm(dim=-1, keepdim=True) / 2
    slope = gradient(lambda s: nd_loss(s, teacher, TARGET, means), student)
    directions = F.normalize(means, dim=-1)[TARGET]
    torch.testing.assert_close(slope, -directions / (4 * teacher.norm(dim=-1, keepdim=True)))


def test_range_and_optimum():
    means = vectors(3, 3)
    teacher = vectors(4, 3)
    along = F.normalize(means, dim=-1)[TARGET] * teacher.norm(dim=-1, keepdim=True)
    assert nd_loss(along, teacher, TARGET, means).item() == pytest.approx(0, abs=1e-12)
    assert nd_loss(2 * along, teacher, TARGET, means).item() == pytest.approx(0, abs=1e-12)
    assert nd_loss(-along, teacher, TARGET, means).item() == pytest.approx(2)
    assert nd_loss(along / 2, teacher, TARGET, means).item() == pytest.approx(0.5)


def test_features_of_zeros_are_finite():
    means = torch.eye(3)
    slope = gradient(lambda s: nd_loss(s, torch.zeros(4, 3), TARGET, means), torch.zeros(4, 3))
    assert bool(torch.isfinite(slope).all())


def test_other_dimensions_get_a_projector_that_trains_and_is_saved():
    loss = NDLoss(num_classes=3, dropout=0.0)
    student, teacher = torch.randn(4, 2), torch.randn(4, 5)
    loss.set_class_means(torch.randn(3, 5))
    loss(student, teacher, TARGET).backward()
    parameters = dict(loss.named_parameters())
    assert parameters["projector.weight"].shape == (5, 2)
    assert all(bool((p.grad != 0).any()) for name, p in parameters.items() if name != "projector.norm.bias")
    fresh = NDLoss(num_classes=3, dropout=0.0)
    fresh.load_state_dict(loss.state_dict())
    assert torch.equal(fresh.eval()(student, teacher, TARGET), loss.eval()(student, teacher, TARGET))
    assert torch.isfinite(copy.deepcopy(loss).train()(student[:1], teacher[:1], TARGET[:1]))


def test_equal_dimensions_get_none():
    loss = NDLoss(num_classes=3)
    assert loss(torch.randn(4, 5), torch.randn(4, 5), TARGET).item() == 1  # no class means yet
    assert list(loss.parameters()) == []
    assert list(loss.state_dict()) == ["class_means"]


def test_a_class_without_mean_is_refused():
    with pytest.raises(ValueError, match=r"^nd_loss: the classes \[1\] have a mean of 0"):
        NDLoss(num_classes=2).set_class_means(torch.tensor([[1.0, 2.0], [0.0, 0.0]]))
    with pytest.raises(ValueError, match=r"^nd_loss: class means of shape \[3, 2\]"):
        NDLoss(num_classes=2).set_class_means(torch.ones(3, 2))


@pytest.mark.parametrize(
    "student, teacher, message",
    [((4, 3, 1), (4, 3), "features"), ((4, 3), (5, 3), "teacher_features"), ((3, 3), (3, 3), "target")],
)
def test_tensors_that_do_not_fit_are_refused(student, teacher, message):
    with pytest.raises(ValueError, match=f"^nd_loss: {message} of shape"):
        NDLoss(num_classes=3)(torch.zeros(student), torch.zeros(teacher), TARGET)


def test_an_infinite_teacher_has_no_direction():
    teacher = torch.ones(4, 5).index_put((torch.tensor(0), torch.tensor(0)), torch.tensor(torch.inf))
    assert NDLoss(num_classes=3)(torch.ones(4, 5), teacher, TARGET).isnan()
