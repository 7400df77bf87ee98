import torch
import torch.nn.functional as F

from lightning_losses.losses import WestonWatkins
from tests.losses.classification.cases import CLASSES, sample, slope


def test_it_is_the_multi_margin_loss_of_torch():
    logits, target = sample()
    loss = WestonWatkins(margin=0.6, reduction="none")
    expected = F.multi_margin_loss(logits, target, margin=0.6, reduction="none")
    torch.testing.assert_close(loss(logits, target), expected)


def test_a_masked_class_is_as_if_absent():
    logits, target = sample()
    wider = F.pad(logits, (0, 2), value=-torch.inf)
    torch.testing.assert_close(WestonWatkins()(wider, target), WestonWatkins()(logits, target))
    torch.testing.assert_close(
        slope(WestonWatkins(), wider, target)[:, :CLASSES], slope(WestonWatkins(), logits, target)
    )
