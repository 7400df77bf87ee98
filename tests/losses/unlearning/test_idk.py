import math

import pytest
import torch
import torch.nn.functional as F

from lightning_losses.losses import IDK, NPO
from tests.losses.unlearning.texts import MASK, logps, slope

REFUSED = torch.tensor([[1, 1], [1, 0], [0, 1]])


def given():
    return logps(0, tokens=2), logps(1, tokens=2), logps(2), logps(3), REFUSED, MASK


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_it_is_dpo_times_2_over_beta(beta):
    won, ref_won, lost, ref_lost, *_ = given()
    margin = ((won - ref_won) * REFUSED).sum(1) - ((lost - ref_lost) * MASK).sum(1)
    torch.testing.assert_close(IDK(beta)(*given()), -2 / beta * F.logsigmoid(beta * margin).mean())


def test_a_refusal_as_likely_as_before_leaves_npo():
    _, ref_won, lost, ref_lost, *_ = given()
    value = IDK(0.3)(ref_won, ref_won, lost, ref_lost, REFUSED, MASK)
    torch.testing.assert_close(value, NPO(0.3)(lost, ref_lost, MASK))


def test_refusals_rise_and_what_is_to_be_forgotten_falls():
    won, ref_won, lost, ref_lost, *_ = given()
    up = slope(lambda refusal: IDK()(refusal, ref_won, lost, ref_lost, REFUSED, MASK), won)
    down = slope(lambda forget: IDK()(won, ref_won, forget, ref_lost, REFUSED, MASK), lost)
    assert up[REFUSED == 1].max() < 0 and down[MASK == 1].min() > 0
    assert not up[REFUSED == 0].any() and not down[MASK == 0].any()


def test_a_refusal_for_each_text():
    with pytest.raises(ValueError, match="idk: 3 sequences to forget came with 2 refusals"):
        IDK()(logps(0, 2), logps(1, 2), logps(2), logps(3))
    assert math.isfinite(IDK()(*given()).item())
