import torch

from lightning_losses.losses import HingeDPO
from tests.losses.preference.pairs import direct, examples, mean, numbers


def test_value_from_the_definition():
    values = examples()
    expected = [max(0.0, 1 - 0.7 * (pair.chosen - pair.rejected)) for pair in numbers(values)]
    # Pairs on both sides of the hinge.
    assert 0 < sum(each == 0 for each in expected) < 4
    torch.testing.assert_close(HingeDPO(0.7)(**values), mean(expected))


def test_beyond_its_margin_a_pair_teaches_nothing():
    for margin, slope in ((9.9, -0.1), (10.1, 0.0)):
        values = direct(margin)
        leaf = values["chosen_logps"].requires_grad_()
        assert torch.autograd.grad(HingeDPO(0.1)(**values), leaf)[0].item() == slope
