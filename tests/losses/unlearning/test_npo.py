import math

import pytest
import torch
import torch.nn.functional as F

from lightning_losses.losses import NPO
from tests.losses.unlearning.texts import MASK, logps, slope


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_value_from_the_definition(beta):
    policy, reference = logps(0), logps(1)
    values = []
    for own, ref, mask in zip(policy, reference, MASK, strict=True):
        ratio = sum(float(a - b) for a, b, m in zip(own, ref, mask, strict=True) if m)
        values.append(-2 / beta * float(F.logsigmoid(torch.tensor(-beta * ratio, dtype=torch.float64))))
    assert math.isclose(NPO(beta)(policy, reference, MASK).item(), sum(values) / 3, rel_tol=1e-12)


def test_where_the_model_is_the_reference():
    assert math.isclose(NPO(0.1)(logps(0), logps(0), MASK).item(), 20 * math.log(2), rel_tol=1e-12)


def test_for_beta_to_0_it_has_the_gradient_of_gradient_ascent_on_whole_sequences():
    found = slope(lambda policy: NPO(1e-9)(policy, logps(1), MASK), logps(0))
    torch.testing.assert_close(found, MASK.double() / 3, rtol=1e-7, atol=0)


def test_what_is_forgotten_pulls_no_more():
    far = logps(0) - 1e4
    assert not slope(lambda policy: NPO(0.1)(policy, logps(1), MASK), far).any()
    known = slope(lambda policy: NPO(0.1)(policy, logps(1) - 1e4, MASK), logps(0))
    torch.testing.assert_close(known, 2 * MASK.double() / 3)


def test_texts_without_a_token_are_left_out():
    mask = MASK.clone()
    mask[1] = 0
    rows = torch.tensor([0, 2])
    value = NPO()(logps(0), logps(1), mask)
    torch.testing.assert_close(value, NPO()(logps(0)[rows], logps(1)[rows], mask[rows]))
    assert NPO().denominator(forget_logps=logps(0), forget_mask=mask) == 2
    assert NPO()(logps(0), logps(1), torch.zeros_like(mask)) == 0
