import pytest
import torch

from lightning_losses.losses import DPO, HyPO

DRAW = torch.Generator().manual_seed(0)
CHOSEN, REF_CHOSEN = (-torch.rand(2, 3, dtype=torch.float64, generator=DRAW) for _ in range(2))
REJECTED, REF_REJECTED = (-torch.rand(2, 5, dtype=torch.float64, generator=DRAW) for _ in range(2))
OWN, REF_OWN = (-torch.rand(6, 4, dtype=torch.float64, generator=DRAW) for _ in range(2))
PAIRS = (CHOSEN, REJECTED, REF_CHOSEN, REF_REJECTED)


def dpo(beta):
    return DPO(beta)(*PAIRS)


def test_without_its_second_part_it_is_dpo():
    torch.testing.assert_close(HyPO(beta=0.4, kl_weight=0.0)(*PAIRS, OWN, REF_OWN), dpo(0.4))


def test_its_value_adds_the_mean_log_ratio_of_the_samples():
    r = (OWN - REF_OWN).sum(dim=1)
    torch.testing.assert_close(HyPO(0.4, kl_weight=0.3)(*PAIRS, OWN, REF_OWN), dpo(0.4) + 0.3 * r.mean())


@pytest.mark.parametrize("leave_out", [True, False])
def test_its_gradient_by_the_samples_is_their_log_ratio_less_that_of_the_others(leave_out):
    leaf = OWN.clone().requires_grad_()
    (slope,) = torch.autograd.grad(HyPO(kl_weight=0.3, leave_out=leave_out)(*PAIRS, leaf, REF_OWN), leaf)
    r = (OWN - REF_OWN).sum(dim=1).tolist()
    for i, own in enumerate(r):
        others = [r[j] for j in range(6) if j // 3 == i // 3 and j != i]
        expected = 0.3 * (own - leave_out * sum(others) / 2) / 6
        torch.testing.assert_close(slope[i], torch.full((4,), expected, dtype=torch.float64))


def test_on_every_pair_of_samples_the_gradient_is_that_of_the_divergence():
    """Expected over two samples, with or without the mean of the others: exactly, by enumeration."""
    logits = torch.tensor([0.3, -1.0, 0.8, 0.1], dtype=torch.float64, requires_grad=True)
    ref = torch.tensor([-0.5, 0.2, 0.4, 0.0], dtype=torch.float64).log_softmax(dim=0)
    log_p = logits.log_softmax(dim=0)
    (wanted,) = torch.autograd.grad((log_p.exp() * (log_p - ref)).sum(), logits, retain_graph=True)
    one = torch.zeros(1, 1, dtype=torch.float64)
    for leave_out in (True, False):
        loss, expected = HyPO(kl_weight=1.0, leave_out=leave_out), torch.zeros_like(logits)
        for first in range(4):
            for second in range(4):
                drawn = torch.tensor([first, second])
                value = loss(one, one, one, one, log_p[drawn].unsqueeze(1), ref[drawn].unsqueeze(1))
                (slope,) = torch.autograd.grad(value, logits, retain_graph=True)
                expected += log_p.detach().exp()[drawn].prod() * slope
        torch.testing.assert_close(expected, wanted)


def test_samples_that_can_not_be_shared_out_are_refused():
    with pytest.raises(ValueError, match="^hypo: logps of 5 completions came for 2 prompts; give equally many"):
        HyPO()(*PAIRS, OWN[:5], REF_OWN[:5])
