"""Rows are drawn by their keys, uniformly and normally, and attacked alike in any batch."""

import pytest
import torch
from torch import nn

from lightning_losses.attacks import PGD, PMA, RowGenerator

KEYS = torch.arange(40) * 3


def drawn(kind, seed=0, keys=KEYS):
    return getattr(RowGenerator(seed, keys), kind)(torch.zeros(len(keys), 50, dtype=torch.float64))


def test_numbers_are_distributed_as_they_should_be():
    uniform, normal = drawn("uniform"), drawn("normal")
    assert uniform.min() > 0 and uniform.max() < 1 and abs(uniform.mean() - 0.5) < 0.02
    assert abs(uniform.var() - 1 / 12) < 0.005
    assert abs(normal.mean()) < 0.06 and abs(normal.std() - 1) < 0.04
    # Neither rows nor columns go together.
    for numbers in (normal, normal.T):
        off = torch.corrcoef(numbers).fill_diagonal_(0)
        assert off.abs().mean() < 0.2


def test_a_row_depends_on_its_key_and_the_seed_alone():
    order = torch.randperm(40)
    assert torch.equal(drawn("normal")[order], drawn("normal", keys=KEYS[order]))
    assert not torch.equal(drawn("normal"), drawn("normal", seed=1))
    generator = RowGenerator(0, KEYS)
    like = torch.zeros(40, 50)
    assert not torch.equal(generator.uniform(like), generator.uniform(like))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, KEYS), "seed=-1 came"),
        ((0, [1, 2]), "keys came as a list"),
        ((0, KEYS.float()), "dtype torch.float32 came; give a whole number for each row"),
    ],
)
def test_keys_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        RowGenerator(*arguments)


@pytest.mark.parametrize(
    "attack",
    [
        PGD(epsilon=0.3, step_size=0.1, steps=2, bounds=None),
        PGD(epsilon=0.3, step_size=0.1, steps=2, bounds=None, norm="l2", restarts=2),
        PGD(epsilon=0.3, step_size=0.1, steps=2, bounds=None, loss="kl_divergence", random_start="normal"),
        PMA(epsilon=0.3, steps=4, bounds=None),
    ],
    ids=["uniform", "l2", "normal", "pma"],
)
def test_a_sample_is_attacked_alike_in_any_batch(attack):
    torch.manual_seed(0)
    network, inputs = nn.Sequential(nn.Linear(50, 8), nn.Tanh(), nn.Linear(8, 3)).double(), drawn("normal")
    target = torch.arange(40) % 3

    def attacked(rows):
        return attack(network, inputs[rows], target[rows], RowGenerator(4, KEYS[rows]))

    whole, order = attacked(torch.arange(40)), torch.randperm(40)
    torch.testing.assert_close(torch.cat([attacked(order[:13]), attacked(order[13:])]), whole[order])
    assert not torch.equal(whole, inputs)
