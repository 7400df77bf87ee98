import pytest
import torch

from lightning_losses.losses import RankMixupMRL
from tests.losses.confidence.cases import sample


def case():
    logits, target = sample()
    mixed = torch.randn(12, 5, dtype=torch.float64)
    purity = torch.full((12, 5), 0.2, dtype=torch.float64)
    return logits, target, mixed, purity


def test_it_is_a_hinge_on_the_largest_logits():
    logits, target, mixed, purity = case()
    expected = torch.relu(mixed.max(-1).values - logits.max(-1).values + 2.0)
    torch.testing.assert_close(RankMixupMRL(reduction="none")(logits, target, mixed, purity), expected)


def test_or_on_the_largest_probabilities():
    logits, target, mixed, purity = case()
    expected = torch.relu(mixed.softmax(-1).max(-1).values - logits.softmax(-1).max(-1).values + 0.05).mean()
    torch.testing.assert_close(
        RankMixupMRL(margin=0.05, compare="probabilities")(logits, target, mixed, purity), expected
    )


def test_mixtures_of_one_class_cost_nothing_for_their_own_sample():
    logits, target, mixed, purity = case()
    plain = RankMixupMRL(margin=10.0, reduction="none")(logits, target, mixed, purity)
    purity[3] = torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0])
    masked = RankMixupMRL(margin=10.0, reduction="none")(logits, target, mixed, purity)
    assert masked[3] == 0 < plain[3]
    assert torch.equal(torch.cat([masked[:3], masked[4:]]), torch.cat([plain[:3], plain[4:]]))


def test_several_mixtures_are_averaged():
    logits, target, mixed, purity = case()
    other = torch.randn(12, 5, dtype=torch.float64)
    both = RankMixupMRL()(logits, target, torch.cat([mixed, other]), purity.repeat(2, 1))
    apart = [RankMixupMRL()(logits, target, one, purity) for one in (mixed, other)]
    torch.testing.assert_close(both, torch.stack(apart).mean())


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="rankmixup_mrl: compare='scores'"):
        RankMixupMRL(compare="scores")
    with pytest.raises(ValueError, match="rankmixup_mrl: margin='2'"):
        RankMixupMRL(margin="2")
