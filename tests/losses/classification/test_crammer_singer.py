import torch

from lightning_losses.losses import CrammerSinger
from tests.losses.classification.cases import others, own, sample, slope


def test_value_from_the_definition():
    logits, target = sample()
    rival = (logits - torch.where(others(target) == 0, torch.inf, 0.0)).amax(-1)
    expected = torch.relu(rival - own(logits, target)[:, 0] + 0.6)
    torch.testing.assert_close(CrammerSinger(margin=0.6, reduction="none")(logits, target), expected)


def test_it_is_0_if_and_only_if_every_other_class_is_a_margin_below():
    logits = torch.tensor([[1.0, 0.0, -torch.inf], [1.0, 0.1, 0.0]])
    value = CrammerSinger(reduction="none")(logits, torch.tensor([0, 0]))
    torch.testing.assert_close(value, torch.tensor([0.0, 0.1]))


def test_a_masked_target_is_infinite():
    logits = torch.tensor([[0.0, -torch.inf, -torch.inf]])
    assert CrammerSinger()(logits, torch.tensor([1])) == torch.inf
    assert slope(CrammerSinger(), logits, torch.tensor([1])).isfinite().all()
