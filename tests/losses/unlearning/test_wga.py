import torch

from lightning_losses.losses import WGA, GradientAscent
from tests.losses.unlearning.texts import MASK, logps, slope


def test_at_beta_0_it_is_gradient_ascent():
    torch.testing.assert_close(WGA(0.0)(logps(0), MASK), GradientAscent()(logps(0), MASK))


def test_the_weight_has_no_gradient():
    found = slope(lambda given: WGA(2.0)(given, MASK), logps(0))
    torch.testing.assert_close(found, logps(0).exp() ** 2 * MASK / MASK.sum())


def test_an_impossible_token_pulls_no_more():
    given = torch.tensor([[-torch.inf, -1.0, -1e6]])
    assert bool(torch.isfinite(WGA()(given)))
    assert slope(WGA(), given)[0, [0, 2]].tolist() == [0.0, 0.0]
