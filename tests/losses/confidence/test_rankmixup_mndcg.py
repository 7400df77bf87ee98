import math

import pytest
import torch

from lightning_losses.losses import RankMixupMNDCG
from tests.losses.confidence.cases import sample


def mixtures(count=3, rows=12):
    logits = torch.randn(count * rows, 5, dtype=torch.float64)
    share = torch.linspace(0.9, 0.6, count, dtype=torch.float64).repeat_interleave(rows)
    target = torch.zeros(count * rows, 5, dtype=torch.float64)
    target[:, 0], target[:, 1] = share, 1 - share
    return logits, target


def test_one_sample_by_hand():
    logits = torch.tensor([[0.8, 0.2]], dtype=torch.float64).log()
    mixed = torch.tensor([[0.6, 0.4], [0.9, 0.1]], dtype=torch.float64).log()
    purity = torch.tensor([[0.5, 0.5], [0.7, 0.3]], dtype=torch.float64)
    gain = 0.8 + 0.9 / math.log2(3) + 0.6 / 2
    ideal = 1 + 0.7 / math.log2(3) + 0.5 / 2
    loss = RankMixupMNDCG()(logits, torch.tensor([0]), mixed, purity)
    assert float(loss) == pytest.approx(1 - min(gain / ideal, ideal / gain), rel=1e-12)


def test_a_gain_above_the_ideal_is_as_far_off_as_one_below():
    logits = torch.tensor([[0.9, 0.1]], dtype=torch.float64).log()
    mixed, purity = torch.tensor([[0.99, 0.01]], dtype=torch.float64).log(), torch.full((1, 2), 0.5).double()
    gain, ideal = 0.9 + 0.99 / math.log2(3), 1 + 0.5 / math.log2(3)
    assert gain > ideal
    assert float(RankMixupMNDCG()(logits, torch.tensor([0]), mixed, purity)) == pytest.approx(1 - ideal / gain)


def test_it_vanishes_where_confidence_is_purity():
    logits = torch.tensor([[1e4, 0.0]], dtype=torch.float64)
    mixed = torch.tensor([[0.7, 0.3], [0.6, 0.4]], dtype=torch.float64)
    assert RankMixupMNDCG()(logits, torch.tensor([0]), mixed.log(), mixed) < 1e-15


def test_the_order_of_the_blocks_does_not_matter():
    logits, target = sample()
    mixed, purity = mixtures()
    order = torch.arange(36).reshape(3, 12)[[2, 0, 1]].reshape(-1)
    torch.testing.assert_close(
        RankMixupMNDCG()(logits, target, mixed[order], purity[order]),
        RankMixupMNDCG()(logits, target, mixed, purity),
    )


def test_ignored_samples_take_their_mixtures_along():
    logits, target = sample()
    mixed, purity = mixtures()
    some = target.clone()
    some[6:] = -100
    kept = (torch.arange(36) % 12) < 6
    torch.testing.assert_close(
        RankMixupMNDCG()(logits, some, mixed, purity),
        RankMixupMNDCG()(logits[:6], target[:6], mixed[kept], purity[kept]),
    )


@pytest.mark.parametrize("rows", [11, 18, 0])
def test_mixtures_that_do_not_fit_are_refused(rows):
    logits, target = sample()
    mixed, purity = mixtures()
    with pytest.raises(ValueError, match=rf"rankmixup_mndcg: mixup_logits of shape \[{rows}, 5\]"):
        RankMixupMNDCG()(logits, target, mixed[:rows], purity[:rows])
