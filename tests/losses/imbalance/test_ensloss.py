import pytest
import torch

from lightning_losses.losses import EnsLoss
from lightning_losses.losses.imbalance.ensloss import random_slopes
from lightning_losses.numerics.counter_random import counter_normals

LOGITS = 2 * torch.randn(40, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
TARGET = torch.arange(40) % 2
MARGINS = (2 * TARGET - 1) * (LOGITS[:, 1] - LOGITS[:, 0])


def slopes_of(loss, logits, target, step):
    leaf = logits.clone().requires_grad_()
    return torch.autograd.grad(loss(leaf, target, step=step), leaf)[0]


@pytest.mark.parametrize("box_cox", [0.0, 0.5, -0.5])
def test_slopes_are_those_of_a_decreasing_convex_loss(box_cox):
    gradient = slopes_of(EnsLoss(box_cox), LOGITS, TARGET, 3)
    slopes = len(TARGET) * (2 * TARGET - 1) * gradient[:, 1]
    torch.testing.assert_close(gradient[:, 0], -gradient[:, 1])
    in_order = slopes[MARGINS.argsort()]
    assert bool((slopes < 0).all()) and bool((in_order.diff() >= 0).all()) and slopes.unique().numel() > 10
    assert slopes.min() >= -1 - 1e-6


def test_draws_follow_from_seed_and_step_alone():
    first = slopes_of(EnsLoss(), LOGITS, TARGET, 3)
    assert torch.equal(first, slopes_of(EnsLoss(), LOGITS, TARGET, torch.tensor(3)))
    for other in (slopes_of(EnsLoss(), LOGITS, TARGET, 4), slopes_of(EnsLoss(loss_seed=1), LOGITS, TARGET, 3)):
        assert not torch.equal(first, other)


def test_its_value_is_the_hinge_loss():
    expected = torch.relu(1 - MARGINS).mean()
    torch.testing.assert_close(EnsLoss()(LOGITS, TARGET, step=0), expected)
    three = torch.cat([LOGITS, LOGITS[:, :1]], dim=1)
    signs = 2 * torch.nn.functional.one_hot(TARGET, 3) - 1
    torch.testing.assert_close(EnsLoss()(three, TARGET, step=0), torch.relu(1 - signs * three).sum(dim=1).mean())


def test_numbers_of_a_counter_are_normal_and_unlike():
    draws = torch.stack([counter_normals(torch.zeros(4000), seed, step) for seed, step in ((0, 0), (0, 1), (1, 0))])
    assert draws.mean(dim=1).abs().max() < 0.06 and (draws.std(dim=1) - 1).abs().max() < 0.04
    assert torch.corrcoef(draws).triu(1).abs().max() < 0.06
    inside = (draws.abs() < 1.0).float().mean()
    assert inside.item() == pytest.approx(0.6827, abs=0.02)
    # The same in another precision and shape, up to its rounding.
    torch.testing.assert_close(counter_normals(torch.zeros(2, 2000, dtype=torch.float64), 0, 1).flatten().float(),
                               draws[1], rtol=1e-4, atol=1e-4)  # fmt: skip


def test_the_largest_margins_are_pulled_by_their_inverse():
    slopes = random_slopes(torch.tensor([0.0, 4.0]), torch.zeros(2))
    torch.testing.assert_close(slopes, torch.tensor([-1.0, -0.25]) - 1e-6)


@pytest.mark.parametrize("box_cox", [1e-12, -1e-9, 1e-5, -1e-3])
def test_slopes_near_exponents_of_0_keep_their_digits(box_cox):
    normals = torch.randn(9, generator=torch.Generator().manual_seed(0))
    # A series where the definition has too few digits.
    r = normals.double()
    log_sizes = (1 + box_cox * r).log() / box_cox if abs(box_cox) > 1e-4 else r - box_cox * r**2 / 2
    wanted = (-log_sizes.exp()).clamp(min=-1).sort().values - 1e-6
    slopes = random_slopes(torch.arange(9.0) - 9, normals, box_cox)
    torch.testing.assert_close(slopes.double(), wanted, rtol=1e-5, atol=1e-6)
