import pytest
import torch
import torch.nn.functional as F

from lightning_losses.losses import WGA, GradientAscent, RetainNLL, SatImp
from lightning_losses.objective import Term
from tests.losses.unlearning.texts import MASK, logps


def test_it_is_cross_entropy_with_the_other_sign():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 6, dtype=torch.float64, generator=generator)
    target = torch.tensor([[1, -100, 2, 5, 0], [3, 3, -100, -100, 4]])
    own = logits.log_softmax(-1).gather(-1, target.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    value = GradientAscent()(own, target != -100)
    torch.testing.assert_close(value, -F.cross_entropy(logits.flatten(0, 1), target.flatten()))


def test_what_masked_tokens_hold_does_not_matter():
    given = logps(0).requires_grad_()
    spoilt = torch.where(MASK == 1, given, torch.tensor(torch.nan, dtype=torch.float64))
    value = GradientAscent()(spoilt, MASK)
    value.backward()
    assert value == GradientAscent()(given, MASK)
    torch.testing.assert_close(given.grad, MASK.double() / MASK.sum())


@pytest.mark.parametrize("loss", [GradientAscent, WGA, SatImp, RetainNLL])
def test_a_mean_divides_by_the_tokens_that_count(loss):
    part = "retain" if loss is RetainNLL else "forget"
    given = {f"{part}_logps": logps(0), f"{part}_mask": MASK}
    mean, total, each = (loss(reduction=reduction)(**given) for reduction in ("mean", "sum", "none"))
    torch.testing.assert_close(total, mean * MASK.sum())
    torch.testing.assert_close(each.sum(), total)
    assert each.shape == MASK.shape and not each[MASK == 0].any()
    assert Term(loss()).count(given).samples == loss().denominator(**given) == MASK.sum()


def test_one_number_a_text_is_refused():
    with pytest.raises(ValueError, match=r"gradient_ascent: forget_logps of shape \[3\] came"):
        GradientAscent()(logps(0)[:, 0])
