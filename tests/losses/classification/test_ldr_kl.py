import math

import pytest
import torch
import torch.nn.functional as F

from lightning_losses.losses import LDRKL, CrammerSinger
from tests.losses.classification.cases import CLASSES, ROWS, others, own, sample, slope


@pytest.mark.parametrize("temperature", [0.3, 1.0, 10.0])
def test_value_from_the_definition(temperature):
    logits, target = sample()
    raised = logits - own(logits, target) + 0.4 * others(target)
    expected = temperature * (torch.logsumexp(raised / temperature, -1) - math.log(CLASSES))
    loss = LDRKL(margin=0.4, temperature=temperature, reduction="none")
    torch.testing.assert_close(loss(logits, target), expected)
    torch.testing.assert_close(slope(loss, logits, target).sum(-1), torch.zeros(ROWS, dtype=torch.float64))


@pytest.mark.parametrize("normalize", ["softplus_mean", "l1_mean"])
def test_normalisation_makes_the_scale_of_a_row_that_of_all(normalize):
    logits, target = sample()
    values = F.softplus(logits) if normalize == "softplus_mean" else logits
    expected = LDRKL(margin=0.4)(values / values.abs().mean(-1, keepdim=True), target)
    torch.testing.assert_close(LDRKL(margin=0.4, normalize=normalize)(logits, target), expected)
    zeros = torch.zeros(1, CLASSES)
    assert slope(LDRKL(normalize=normalize), zeros, torch.tensor([1])).isfinite().all()


def test_its_limits_are_known_losses():
    logits, target = sample()
    torch.testing.assert_close(
        LDRKL(margin=0.0, temperature=1.0)(logits, target), F.cross_entropy(logits, target) - math.log(CLASSES)
    )
    torch.testing.assert_close(
        LDRKL(margin=1.0, temperature=1e-9)(logits, target), CrammerSinger(margin=1.0)(logits, target)
    )
    mean = (logits - own(logits, target) + others(target)).mean()
    torch.testing.assert_close(LDRKL(margin=1.0, temperature=1e9)(logits, target), mean)


def test_single_precision_is_enough_for_a_high_temperature():
    logits, target = sample()
    loss = LDRKL(temperature=1e6)
    torch.testing.assert_close(loss(logits.float(), target).double(), loss(logits, target), rtol=1e-5, atol=0)


@pytest.mark.parametrize("normalize", ["none", "softplus_mean", "l1_mean"])
def test_a_masked_class_is_as_if_absent(normalize):
    logits, target = sample()
    wider = F.pad(logits, (0, 2), value=-torch.inf)
    loss = LDRKL(normalize=normalize)
    torch.testing.assert_close(loss(wider, target), loss(logits, target))
    torch.testing.assert_close(slope(loss, wider, target)[:, :CLASSES], slope(loss, logits, target))
