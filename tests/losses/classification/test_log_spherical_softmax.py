import torch

from lightning_losses.losses import LogSphericalSoftmax
from tests.losses.classification.cases import own, sample


def test_value_from_the_definition():
    logits, target = sample()
    expected = -((own(logits, target)[:, 0] ** 2 + 0.3) / (logits**2 + 0.3).sum(-1)).log()
    torch.testing.assert_close(LogSphericalSoftmax(eps=0.3, reduction="none")(logits, target), expected)


def test_signs_mean_nothing_and_a_masked_class_has_no_probability():
    logits, target = sample()
    loss = LogSphericalSoftmax()
    torch.testing.assert_close(loss(-logits, target), loss(logits, target))
    torch.testing.assert_close(
        loss(torch.nn.functional.pad(logits, (0, 1), value=-torch.inf), target), loss(logits, target)
    )
