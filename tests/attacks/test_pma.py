import math

import pytest
import torch
from torch import nn

from lightning_losses.attacks import PGD, PMA
from lightning_losses.attacks.gradient_attack import Climbing
from tests.attacks.networks import batch, convolutional

K = 12


def by_definition(step):
    """The authors' step, over ε, with their names of things."""
    change_point, initial = K / 2, 2.0
    since = step - 1 if step <= change_point else step - change_point - 1
    return initial * 0.5 * (1 + math.cos(since / (K - change_point) * math.pi))


def test_steps_fall_twice_from_the_diameter():
    lengths = [PMA(epsilon=0.5, steps=K).step_length(step) for step in range(K)]
    assert lengths == pytest.approx([0.5 * by_definition(step) for step in range(K)], rel=1e-12)
    assert lengths[1] == lengths[7] == 1.0 and lengths[6] < 0.1 < lengths[11] < 0.3
    assert lengths[1:7] == sorted(lengths[1:7], reverse=True)


@pytest.mark.parametrize(
    ("step", "restart", "expected"),
    [
        (0, 0, lambda p, y, others: p[y]),
        (0, 1, lambda p, y, others: p[y]),
        (3, 0, lambda p, y, others: -p[y]),
        (3, 1, lambda p, y, others: others),
        (6, 0, lambda p, y, others: others - p[y]),
        (11, 1, lambda p, y, others: others - p[y]),
    ],
)
def test_each_step_climbs_in_the_direction_of_its_loss(step, restart, expected):
    generator = torch.Generator().manual_seed(step)
    logits = (2 * torch.randn(5, 4, generator=generator, dtype=torch.float64)).requires_grad_()
    target = torch.tensor([0, 1, 2, 3, 0])
    climbing = Climbing(target, logits, logits, target, torch.zeros(5, 0))
    (ours,) = torch.autograd.grad(PMA(steps=K).losses(logits, climbing, step, restart).sum(), logits)
    values = []
    for row, y in zip(logits, target.tolist(), strict=True):
        p = row.softmax(0)
        values.append(expected(p, y, torch.cat([p[:y], p[y + 1 :]]).max()))
    (theirs,) = torch.autograd.grad(torch.stack(values).sum(), logits)
    unit = nn.functional.normalize
    torch.testing.assert_close(unit(ours), unit(theirs), rtol=0, atol=1e-12)


def test_it_fools_no_less_than_pgd_of_as_many_steps():
    network, (inputs, target) = convolutional(), batch(rows=80)
    network.eval()
    target = network(inputs).argmax(1)

    def fooled(attack):
        return (network(attack(network, inputs, target)).argmax(1) != target).sum().item()

    pgd = fooled(PGD(epsilon=0.05, step_size=0.0125, steps=10, restarts=2, stop_when_fooled=True))
    assert 0 < pgd <= fooled(PMA(epsilon=0.05, steps=10)) < 80


def test_what_leaves_rows_out_by_itself_says_how_to_keep_them(monkeypatch):
    monkeypatch.setattr("lightning_losses.attacks.gradient_attack.is_sharded", lambda network: True)
    network, (inputs, target) = convolutional(), batch()
    with pytest.raises(
        ValueError, match="pma: stop_when_fooled came with a sharded network.*give stop_when_fooled=False"
    ):
        PMA(steps=2)(network, inputs, target)
    PMA(steps=2, stop_when_fooled=False)(network, inputs, target)
