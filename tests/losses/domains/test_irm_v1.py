import pytest
import torch
import torch.nn.functional as F

from lightning_losses.losses import IRMv1
from tests.losses.domains.batches import DOMAIN, LOGITS, ROWS, TARGET, without


def slope(rows):
    """The derivative of the risk by a factor of the logits, by autograd."""
    factor = torch.ones((), dtype=torch.float64, requires_grad=True)
    return torch.autograd.grad(F.cross_entropy(factor * LOGITS[rows], TARGET[rows]), factor)[0]


def test_value_from_the_definition():
    split = [slope(rows[::2]) * slope(rows[1::2]) for rows in ROWS]
    for estimator, expected in (("full", [slope(rows) ** 2 for rows in ROWS]), ("split", split)):
        value = IRMv1(3, estimator)(LOGITS, TARGET, DOMAIN)
        torch.testing.assert_close(value, torch.stack(expected).mean())


@pytest.mark.parametrize("estimator", ["full", "split"])
def test_a_domain_that_is_not_there_is_left_out(estimator):
    rows = without(1)
    value = IRMv1(3, estimator)(LOGITS[rows], TARGET[rows], DOMAIN[rows])
    torch.testing.assert_close(value, IRMv1(2, estimator)(LOGITS[rows], TARGET[rows], DOMAIN[rows].clamp(max=1)))


def test_a_domain_of_one_sample_is_squared():
    row = ROWS[0][:1]
    value = IRMv1(3)(LOGITS[row], TARGET[row], DOMAIN[row])
    torch.testing.assert_close(value, slope(row) ** 2)


def test_equal_logits_have_no_penalty_and_a_shift_changes_nothing():
    assert IRMv1(3)(torch.zeros_like(LOGITS), TARGET, DOMAIN).abs() < 1e-24
    torch.testing.assert_close(IRMv1(3)(LOGITS + 7, TARGET, DOMAIN), IRMv1(3)(LOGITS, TARGET, DOMAIN))
