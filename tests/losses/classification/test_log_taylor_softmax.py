import torch
import torch.nn.functional as F

from lightning_losses.losses import LogTaylorSoftmax
from tests.losses.classification.cases import own, sample


def test_value_from_the_definition():
    logits, target = sample()

    def taylor(z):
        return 1 + z + z**2 / 2

    expected = -(taylor(own(logits, target)[:, 0]) / taylor(logits).sum(-1)).log()
    torch.testing.assert_close(LogTaylorSoftmax(reduction="none")(logits, target), expected)


def test_near_0_it_is_cross_entropy():
    logits, target = sample(scale=0.01)
    torch.testing.assert_close(LogTaylorSoftmax()(logits, target), F.cross_entropy(logits, target), rtol=1e-5, atol=0)
