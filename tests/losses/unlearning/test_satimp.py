import torch

from lightning_losses.losses import WGA, SatImp
from tests.losses.unlearning.texts import MASK, logps, slope


def test_with_beta2_0_it_is_wga():
    torch.testing.assert_close(SatImp(1.5, 0.0)(logps(0), MASK), WGA(1.5)(logps(0), MASK))


def test_the_weights_have_no_gradient():
    p = logps(0).exp()
    found = slope(lambda given: SatImp(0.5, 2.0)(given, MASK), logps(0))
    torch.testing.assert_close(found, p**0.5 * (1 - p) ** 2 * MASK / MASK.sum())


def test_sure_and_impossible_tokens_do_not_pull():
    # Rounding may put a log-probability above 0.
    given = torch.tensor([[0.0, 1e-7, -torch.inf, -1e6]])
    # A log-probability of -inf counts as -100.
    assert SatImp(1.0, 0.5)(given).abs() < 1e-40 and not slope(SatImp(1.0, 0.5), given).any()
