import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from lightning_losses.losses import GroupDRO

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = 2 * torch.randn(3, 8, 4, dtype=torch.float64, generator=GENERATOR)
TARGET = torch.randint(0, 4, (3, 8), generator=GENERATOR)
DOMAIN = torch.tensor([0, 1, 2, 2, 1, 0, 0, 2])


def losses(step, groups=3):
    rows = F.cross_entropy(LOGITS[step], TARGET[step], reduction="none")
    return torch.stack([rows[group == DOMAIN].mean() if (group == DOMAIN).any() else rows.new_zeros(())
                        for group in range(groups)])  # fmt: skip


@pytest.mark.parametrize("groups", [3, 5], ids=["present", "absent"])
def test_weights_and_value_follow_the_recursion(groups):
    loss, q = GroupDRO(groups, eta=0.5).double(), torch.full((groups,), 1 / groups, dtype=torch.float64)
    for step in range(3):
        q = q * (0.5 * losses(step, groups)).exp()
        q = q / q.sum()
        leaf = LOGITS[step].clone().requires_grad_()
        value = loss(leaf, TARGET[step], DOMAIN, step=step)
        torch.testing.assert_close(value, (q * losses(step, groups)).sum())
        torch.testing.assert_close(loss.log_weights.exp(), q)
        share = (q / torch.bincount(DOMAIN, minlength=groups).clamp(min=1))[DOMAIN].unsqueeze(1)
        slope = LOGITS[step].softmax(-1) - F.one_hot(TARGET[step], 4)
        torch.testing.assert_close(torch.autograd.grad(value, leaf)[0], share * slope)


def test_batches_of_one_step_begin_alike_and_calls_without_a_step_go_on():
    told, untold = GroupDRO(3, eta=0.5).double(), GroupDRO(3, eta=0.5).double()
    first = told(LOGITS[0], TARGET[0], DOMAIN, step=7)
    assert torch.equal(told(LOGITS[0], TARGET[0], DOMAIN, step=7), first)
    second = told(LOGITS[0], TARGET[0], DOMAIN, step=8)
    assert second > first
    values = [untold(LOGITS[0], TARGET[0], DOMAIN) for _ in range(2)]
    torch.testing.assert_close(torch.stack(values), torch.stack([first, second]))


def test_weights_move_once_in_a_step_of_several_batches_and_of_passes_that_run_again():
    once, again = GroupDRO(3, eta=0.5).double(), GroupDRO(3, eta=0.5).double()
    for step in range(2):
        once(LOGITS[1], TARGET[1], DOMAIN, step=step)
        leaf = LOGITS[1].clone().requires_grad_()
        again(LOGITS[0], TARGET[0], DOMAIN, step=step)
        checkpoint(
            lambda logits, step=step: again(logits, TARGET[1], DOMAIN, step=step), leaf, use_reentrant=False
        ).backward()
        torch.testing.assert_close(again.log_weights, once.log_weights)


def test_limits_of_eta():
    value = GroupDRO(3, eta=0.0).double()(LOGITS[0], TARGET[0], DOMAIN)
    torch.testing.assert_close(value, losses(0).mean())
    worst = GroupDRO(3, eta=1e4).double()(LOGITS[0], TARGET[0], DOMAIN)
    torch.testing.assert_close(worst, losses(0).max())


def test_evaluation_and_numbers_that_are_none_leave_the_weights():
    loss = GroupDRO(3, eta=0.5).double()
    loss(LOGITS[0], TARGET[0], DOMAIN)
    before = loss.log_weights.clone()
    evaluated = loss.eval()(LOGITS[1], TARGET[1], DOMAIN)
    with torch.no_grad():
        assert torch.equal(loss.train()(LOGITS[1], TARGET[1], DOMAIN, step=1), evaluated)
    assert bool(loss.train()(LOGITS[1] * torch.nan, TARGET[1], DOMAIN).isnan())
    assert torch.equal(loss.log_weights, before)


@pytest.mark.parametrize(
    ("domain", "told"),
    [
        (DOMAIN[:2], "domain (torch.int64 [2]) came with target of shape [8]; give the int64 group of each row."),
        (DOMAIN + 1, "domain 3 came with num_groups=3; give 0 to 2."),
        (None, "domain (a NoneType) came with target of shape [8]; give the int64 group of each row."),
    ],
    ids=["shape", "range", "none"],
)
def test_groups_that_do_not_fit_are_refused(domain, told):
    with pytest.raises(ValueError) as raised:
        GroupDRO(3)(LOGITS[0].float(), TARGET[0], domain)
    assert str(raised.value) == f"group_dro: {told}"
