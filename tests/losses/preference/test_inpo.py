import pytest
import torch

from lightning_losses.losses import INPO, IPO

DRAW = torch.Generator().manual_seed(0)
CHOSEN, REF_CHOSEN, OLD_CHOSEN = (-torch.rand(4, 3, dtype=torch.float64, generator=DRAW) for _ in range(3))
REJECTED, REF_REJECTED, OLD_REJECTED = (-torch.rand(4, 5, dtype=torch.float64, generator=DRAW) for _ in range(3))
REST = (REF_CHOSEN, REF_REJECTED, OLD_CHOSEN, OLD_REJECTED)
MASK = torch.tensor([[1, 1, 1], [0, 1, 1], [1, 0, 0], [1, 1, 0]])


def test_value_from_the_definition():
    kept = MASK != 0

    def gap(chosen, rejected):
        return torch.stack([chosen[i][kept[i]].sum() - rejected[i].sum() for i in range(4)])

    tau, eta = 0.3, 0.8
    h = gap(CHOSEN, REJECTED) - tau / eta * gap(REF_CHOSEN, REF_REJECTED)
    h = h - (eta - tau) / eta * gap(OLD_CHOSEN, OLD_REJECTED)
    value = INPO(tau=tau, eta=eta)(CHOSEN, REJECTED, *REST, MASK)
    torch.testing.assert_close(value, ((h - 1 / (2 * eta)) ** 2).mean())


def test_without_the_previous_iterate_it_is_ipo_of_sums():
    value = INPO(tau=0.5, eta=0.5)(
        CHOSEN, REJECTED, REF_CHOSEN, REF_REJECTED, -torch.inf * OLD_CHOSEN.abs(), OLD_REJECTED
    )
    torch.testing.assert_close(value, IPO(0.5, over="sum")(CHOSEN, REJECTED, REF_CHOSEN, REF_REJECTED))


def test_only_the_policy_has_a_gradient():
    leaves = [given.clone().requires_grad_() for given in (CHOSEN, REJECTED, *REST)]
    slopes = torch.autograd.grad(INPO()(*leaves), leaves, allow_unused=True)
    assert all((slope is None) == (place > 1) for place, slope in enumerate(slopes))


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="^inpo: tau=2.0 came; give a number above 0 and at most 1"):
        INPO(tau=2.0, eta=1.0)
    with pytest.raises(
        ValueError, match=r"^inpo: ref_chosen_logps of shape \[4, 3\] came with old_chosen_logps of .*4, 2"
    ):
        INPO()(CHOSEN, REJECTED, REF_CHOSEN, REF_REJECTED, OLD_CHOSEN[:, :2], OLD_REJECTED)
