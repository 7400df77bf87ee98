import pytest
import torch

from lightning_losses.losses import CompSum, SmoothAdversarialCompSum

CLEAN, ATTACKED = torch.randn(2, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
TARGET = torch.tensor([0, 2, 1, 0, 2])


@pytest.mark.parametrize("tau", [0.0, 0.4, 1.0, 2.0])
def test_value_from_the_definition(tau):
    target = TARGET.unsqueeze(1)
    margins = [logits.gather(1, target) - logits for logits in (CLEAN, ATTACKED)]
    total = (-margins[0] / 0.5).exp().sum(dim=1)
    comp_sum = total.log() if tau == 1 else (total ** (1 - tau) - 1) / (1 - tau)
    expected = comp_sum + 2 * torch.linalg.vector_norm(margins[1] - margins[0], dim=1)
    loss = SmoothAdversarialCompSum(tau=tau, rho=0.5, nu=2.0, reduction="none")
    torch.testing.assert_close(loss(CLEAN, ATTACKED, TARGET), expected, rtol=1e-5, atol=3e-6)


def test_without_an_attack_it_is_the_comp_sum_loss_and_an_attack_never_lowers_it():
    clean = CLEAN.clone().requires_grad_()
    value = SmoothAdversarialCompSum(tau=0.4)(clean, clean, TARGET)
    assert value == CompSum(tau=0.4)(CLEAN, TARGET)
    assert torch.autograd.grad(value, clean)[0].isfinite().all()
    rows = [
        CompSum(reduction="none")(CLEAN, TARGET),
        SmoothAdversarialCompSum(reduction="none")(CLEAN, ATTACKED, TARGET),
    ]
    assert (rows[1] >= rows[0]).all()


def test_a_shift_of_all_attacked_logits_changes_nothing():
    loss = SmoothAdversarialCompSum()
    torch.testing.assert_close(loss(CLEAN, ATTACKED + 3.0, TARGET), loss(CLEAN, ATTACKED, TARGET))
    torch.testing.assert_close(loss(CLEAN, CLEAN + 3.0, TARGET), CompSum()(CLEAN, TARGET))
