import pytest
import torch
from torch import nn

from lightning_losses import CrossEntropy, Objective, Term
from lightning_losses.losses import MultiAspectKD
from lightning_losses.mixins.multi_aspect import AspectNetwork, MultiAspectMixin
from lightning_losses.modules import Classifier
from tests.losses.strategies import gradient


def logits(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def test_gradient_is_the_difference_of_probabilities():
    z, q = logits(4, 3), logits(4, 3).sigmoid()
    torch.testing.assert_close(gradient(MultiAspectKD(), z, q), (z.sigmoid() - q) / 12)


def test_its_least_value_is_the_entropy_of_the_answers():
    q = logits(4, 3).sigmoid()
    entropy = -(q * q.log() + (1 - q) * (1 - q).log()).mean()
    torch.testing.assert_close(MultiAspectKD()(q.logit(), q), entropy)
    assert MultiAspectKD()(q.logit() + 0.1, q) > entropy


def test_missing_answers_do_not_count():
    z, q = logits(3, 4), logits(3, 4).sigmoid()
    q[0, 1:] = torch.nan
    q[2] = torch.nan
    expected = (MultiAspectKD()(z[:1, :1], q[:1, :1]) + MultiAspectKD()(z[1:2], q[1:2])) / 2
    torch.testing.assert_close(MultiAspectKD()(z, q), expected)
    slope = gradient(MultiAspectKD(), z, q)
    assert bool((slope[2] == 0).all()) and bool((slope[0, 1:] == 0).all()) and slope[0, 0] != 0
    assert MultiAspectKD().denominator(aspect_logits=z, teacher_aspects=q).item() == 2
    assert MultiAspectKD()(z, torch.full_like(q, torch.nan)).item() == 0


class Student(MultiAspectMixin, Classifier):
    pass


def student(weight=4.0):
    torch.manual_seed(0)
    objective = Objective({"ce": CrossEntropy(), "aspects": Term(MultiAspectKD(), weight)})
    return Student(AspectNetwork(nn.Linear(4, 5), num_classes=3), objective, num_classes=3)


def batch():
    return {
        "inputs": torch.randn(6, 4),
        "target": torch.arange(6) % 3,
        "teacher_aspects": torch.rand(6, 2),
    }


def test_the_head_is_split():
    module, step = student(), batch()
    output = module.network(step["inputs"])
    expected = nn.functional.cross_entropy(output[:, :3], step["target"])
    expected = expected + 4 * nn.functional.binary_cross_entropy_with_logits(output[:, 3:], step["teacher_aspects"])
    found = module.training_step(step, 0)
    torch.testing.assert_close(found["loss"], expected)
    assert found["logits"].shape == (6, 3)
    assert module.eval()(step["inputs"]).shape == (6, 3)


def test_without_weight_it_is_cross_entropy():
    module, step = student(weight=0.0), batch()
    module.training_step(step, 0)["loss"].backward()
    assert bool((module.network.network.weight.grad[3:] == 0).all())


def test_steps_that_do_not_fit_are_refused():
    module, step = student(), batch()
    with pytest.raises(ValueError, match="^Student: 5 teacher_aspects came with 5 logits"):
        module.training_step({**step, "teacher_aspects": torch.rand(6, 5)}, 0)
    del step["teacher_aspects"]
    with pytest.raises(ValueError, match="^Student: splitting the head needs"):
        module.training_step(step, 0)
    with pytest.raises(ValueError, match="^multi_aspect_kd: teacher_aspects of shape"):
        MultiAspectKD()(torch.zeros(2, 3), torch.zeros(2, 4))


def test_the_classes_alone_are_not_split():
    with pytest.raises(ValueError) as raised:
        student().eval().training_step(batch(), 0)
    assert str(raised.value) == (
        "Student: the objective takes 'aspect_logits', and an AspectNetwork in evaluation mode gives the classes "
        "alone; evaluate another objective, or in training mode."
    )
