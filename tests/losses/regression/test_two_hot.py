import torch

from lightning_losses.losses import TwoHot

VALUES = torch.tensor([-2.0, -0.3, 0.0, 1.25, 2.0], dtype=torch.float64)


def test_value_from_the_definition():
    logits = torch.linspace(-2, 2, 25, dtype=torch.float64).reshape(5, 5).sin()
    numbers, log_p = [-2.0, -1.0, 0.0, 1.0, 2.0], logits.log_softmax(dim=-1)
    total = 0.0
    for row, value in zip(log_p, VALUES.tolist(), strict=True):
        below = min(int(value + 2), 3)
        share = value - numbers[below]
        total -= (1 - share) * row[below] + share * row[below + 1]
    torch.testing.assert_close(TwoHot(-2.0, 2.0)(logits, VALUES), total / 5)


def test_what_was_encoded_is_decoded():
    loss = TwoHot(-2.0, 2.0)
    for bins in (2, 5, 8):
        target = loss.encode(VALUES, bins)
        assert bool(((target > 0).sum(dim=-1) <= 2).all())
        torch.testing.assert_close(loss.decode(target.log()), VALUES)


def test_numbers_outside_are_the_ends():
    target = TwoHot(-2.0, 2.0).encode(torch.tensor([-50.0, 9.0]), 4)
    assert torch.equal(target, torch.eye(4)[[0, 3]])
