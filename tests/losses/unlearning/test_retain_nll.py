import torch

from lightning_losses.losses import GradientAscent, RetainNLL
from tests.losses.unlearning.texts import MASK, logps


def test_it_is_gradient_ascent_with_the_other_sign():
    torch.testing.assert_close(RetainNLL()(logps(0), MASK), -GradientAscent()(logps(0), MASK))
    torch.testing.assert_close(RetainNLL()(logps(0)), -logps(0).mean())


def test_it_divides_by_the_tokens_that_count():
    assert RetainNLL().denominator(retain_logps=logps(0), retain_mask=MASK) == MASK.sum()
