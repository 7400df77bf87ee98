import torch

from lightning_losses.losses import NCE
from tests.losses.noisy_labels.cases import CLASSES, ROWS, over_all_labels, sample, slope


def test_value_from_the_definition():
    logits, target, p = sample()
    torch.testing.assert_close(NCE(reduction="none")(logits, target), p.log() / logits.softmax(-1).log().sum(-1))


def test_it_is_symmetric():
    logits, *_ = sample()
    torch.testing.assert_close(over_all_labels(NCE(reduction="none"), logits), torch.ones(ROWS, dtype=torch.float64))


def test_a_masked_class_is_as_if_absent():
    logits, target, _ = sample()
    wider = torch.nn.functional.pad(logits, (0, 1), value=-torch.inf)
    torch.testing.assert_close(NCE()(wider, target), NCE()(logits, target))
    torch.testing.assert_close(slope(NCE(), wider, target)[:, :CLASSES], slope(NCE(), logits, target))


def test_a_masked_target_counts_as_very_unlikely_and_a_lone_class_costs_nothing():
    logits = torch.tensor([[0.0, 0.0, -torch.inf], [0.0, -torch.inf, -torch.inf]])
    target = torch.tensor([2, 0])
    expected = torch.tensor([100 / (100 + 2 * torch.log(torch.tensor(2.0))), 0.0])
    torch.testing.assert_close(NCE(reduction="none")(logits, target), expected)
    assert torch.equal(slope(NCE(), logits, target), torch.zeros(2, 3))
