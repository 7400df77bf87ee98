import math

import pytest
import torch
import torch.nn.functional as F

from lightning_losses.losses import SimNPO
from tests.losses.unlearning.texts import MASK, logps, slope


@pytest.mark.parametrize(("beta", "gamma"), [(4.5, 0.0), (1.0, 0.5)])
def test_value_as_open_unlearning_writes_it(beta, gamma):
    given, delta = logps(0), gamma / beta
    nll = -(given * MASK).sum(1) / MASK.sum(1) - delta
    torch.testing.assert_close(SimNPO(beta, gamma)(given, MASK), -F.logsigmoid(beta * nll).mean() * 2 / beta)


def test_long_texts_pull_no_harder():
    # One token repeated has the loss of the token alone.
    once, often = torch.tensor([[-1.5]]), torch.full((1, 9), -1.5)
    torch.testing.assert_close(SimNPO()(once), SimNPO()(often))


def test_what_is_forgotten_pulls_no_more():
    assert not slope(lambda given: SimNPO()(given, MASK), logps(0) - 1e4).any()
    assert slope(lambda given: SimNPO()(given, MASK), logps(0))[MASK == 1].min() > 0
    assert math.isfinite(SimNPO()(logps(0) - 1e30, MASK).item())
