import pytest
import torch
import torch.nn.functional as F

from lightning_losses.losses import MbLS
from tests.losses.confidence.cases import sample


def test_within_the_margin_it_is_cross_entropy():
    logits, target = sample()
    margin = float((logits.max(-1).values - logits.min(-1).values).max())
    torch.testing.assert_close(MbLS(margin=margin)(logits, target), F.cross_entropy(logits, target))


def test_beyond_the_margin_by_hand():
    logits, target = torch.tensor([[5.0, 1.0, 0.0]], dtype=torch.float64), torch.tensor([0])
    expected = F.cross_entropy(logits, target) + 0.1 * (0 + 2 + 3) / 3
    torch.testing.assert_close(MbLS(margin=2.0, alpha=0.1)(logits, target), expected)


def test_a_shift_of_all_logits_changes_nothing():
    logits, target = sample()
    torch.testing.assert_close(MbLS(margin=1.0)(logits + 7, target), MbLS(margin=1.0)(logits, target))


def test_masked_classes_cost_nothing():
    logits, target = sample()
    masked = torch.cat([logits, torch.full((12, 1), -torch.inf, dtype=torch.float64)], -1)
    # The mean is over six classes instead of five.
    penalty = MbLS(margin=1.0)(logits, target) - F.cross_entropy(logits, target)
    expected = F.cross_entropy(logits, target) + penalty * 5 / 6
    torch.testing.assert_close(MbLS(margin=1.0)(masked, target), expected)


@pytest.mark.parametrize("option", ["margin", "alpha"])
def test_bad_options_are_refused(option):
    with pytest.raises(ValueError, match=f"mbls: {option}=-1"):
        MbLS(**{option: -1})
