import pytest
import torch
import torch.nn.functional as F

from lightning_losses.losses import MadaCos
from lightning_losses.losses.kinds import ClassificationRows

TARGET = torch.tensor([0, 2, 1, 2, 1])


def batch(at=0.6):
    cosines = 0.2 * torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).tanh()
    return cosines + at * F.one_hot(TARGET, 3)


@pytest.mark.parametrize(("alpha", "samples", "middle"), [(0.1, 5, 2), (0.02, 4, 1)])
def test_the_median_sample_has_the_probability_that_was_asked_for(alpha, samples, middle):
    cosines, target, loss = batch()[:samples], TARGET[:samples], MadaCos(alpha, reduction="none")
    median = cosines.gather(1, target.unsqueeze(1)).squeeze(1).argsort()[middle]
    assert (-loss(cosines, target)).exp()[median].item() == pytest.approx(alpha, rel=1e-12)
    # A cosine of 1 beside the same others has nearly all of it.
    scale, margin = loss.scale_and_margin(ClassificationRows(cosines, target, None))
    perfect = cosines[median].scatter(0, target[median], 1 - margin)
    assert 1 - (scale * perfect).softmax(0)[target[median]].item() == pytest.approx(1e-7, rel=1e-6)


def test_scale_and_margin_grow_with_the_median_and_are_bounded():
    found = [MadaCos().scale_and_margin(ClassificationRows(batch(at), TARGET, None)) for at in (-0.4, 0.5, 0.7)]
    (least, none), *grown = found
    assert (least.item(), none.item()) == (32.0, 0.0)
    assert least < grown[0][0] < grown[1][0] and 0 < grown[0][1] < grown[1][1]
    certain = torch.eye(3, dtype=torch.float64)[TARGET]
    assert MadaCos(max_scale=500.0).scale_and_margin(ClassificationRows(certain, TARGET, None))[0] == 500


def test_in_evaluation_there_is_no_margin_and_constants_have_no_gradient():
    cosines, loss = batch().requires_grad_(), MadaCos()
    scale, margin = (float(number) for number in loss.scale_and_margin(ClassificationRows(cosines, TARGET, None)))
    (slope,) = torch.autograd.grad(loss(cosines, TARGET), cosines)
    fixed = F.cross_entropy(scale * (cosines - margin * F.one_hot(TARGET, 3).double()), TARGET)
    torch.testing.assert_close(slope, torch.autograd.grad(fixed, cosines)[0])
    torch.testing.assert_close(loss.eval()(cosines, TARGET), F.cross_entropy(scale * cosines, TARGET))
