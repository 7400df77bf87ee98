import math

import pytest
import torch

from lightning_losses.losses import D2O, DPO

DRAW = torch.Generator().manual_seed(0)
OWN, REF_OWN = (-torch.rand(6, 4, dtype=torch.float64, generator=DRAW) for _ in range(2))
REJECTED, REF_REJECTED = (-torch.rand(2, 3, dtype=torch.float64, generator=DRAW) for _ in range(2))
MASK = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [0, 1, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [1, 1, 1, 1]])


def test_value_from_the_definition():
    each = []
    for i in range(2):
        ratios = [
            sum(float(OWN[k, t] - REF_OWN[k, t]) for t in range(4) if MASK[k, t]) for k in range(3 * i, 3 * i + 3)
        ]
        against = sum(float(REJECTED[i, t] - REF_REJECTED[i, t]) for t in range(3))
        each.append(math.log(1 + math.exp(-(0.7 / 3 * sum(ratios) - 0.4 * against))))
    value = D2O(alpha=0.4, beta=0.7)(OWN, REF_OWN, REJECTED, REF_REJECTED, MASK)
    assert value.item() == pytest.approx(sum(each) / 2, rel=1e-12)


def test_with_one_sample_and_equal_strengths_it_is_dpo_of_that_sample():
    value = D2O(alpha=0.3, beta=0.3)(OWN[:2], REF_OWN[:2], REJECTED, REF_REJECTED)
    torch.testing.assert_close(value, DPO(0.3)(OWN[:2], REJECTED, REF_OWN[:2], REF_REJECTED))


def test_the_order_of_a_prompts_samples_does_not_matter_but_whose_they_are_does():
    loss = D2O(alpha=2.0, beta=2.0)
    value = loss(OWN, REF_OWN, REJECTED, REF_REJECTED)
    within, across = [2, 0, 1, 3, 5, 4], [3, 1, 2, 0, 4, 5]
    torch.testing.assert_close(loss(OWN[within], REF_OWN[within], REJECTED, REF_REJECTED), value)
    assert abs(float(loss(OWN[across], REF_OWN[across], REJECTED, REF_REJECTED) - value)) > 1e-4


def test_prompts_whose_rejected_completion_is_empty_are_left_out():
    mask = torch.tensor([[1, 1, 1], [0, 0, 0]])
    value = D2O()(OWN, REF_OWN, REJECTED, REF_REJECTED, None, mask)
    torch.testing.assert_close(value, D2O()(OWN[:3], REF_OWN[:3], REJECTED[:1], REF_REJECTED[:1]))
    assert D2O().denominator(logps=OWN, rejected_logps=REJECTED, rejected_mask=mask) == 1


def test_samples_that_can_not_be_shared_out_are_refused():
    with pytest.raises(ValueError, match="^d2o: logps of 5 completions came for 2 prompts; give equally many"):
        D2O()(OWN[:5], REF_OWN[:5], REJECTED, REF_REJECTED)
    with pytest.raises(ValueError, match="^d2o: logps of 0 completions came for 2 prompts"):
        D2O()(OWN[:0], REF_OWN[:0], REJECTED, REF_REJECTED)
