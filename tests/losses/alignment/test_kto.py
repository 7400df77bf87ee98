import math

import pytest
import torch

from lightning_losses.losses import KTO

DRAW = torch.Generator().manual_seed(0)
LOGPS, REF, OTHERS, REF_OTHERS = (-torch.rand(5, 4, dtype=torch.float64, generator=DRAW) for _ in range(4))
GOOD = torch.tensor([True, False, False, True, True])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 1, 1, 0], [1, 0, 0, 0], [0, 1, 1, 1]])


def value(loss=None, logps=LOGPS, ref=REF, good=GOOD, mask=MASK, others=OTHERS, ref_others=REF_OTHERS):
    return (loss or KTO())(logps, ref, good, mask, others, ref_others, mask)


def test_value_from_the_definition():
    loss = KTO(beta=0.7, desirable_weight=1.3, undesirable_weight=0.7)
    # The other completions are mostly less likely than after the reference, so that z0 is moved above 0.
    others = OTHERS + 0.9
    r = [sum(float(LOGPS[i, t] - REF[i, t]) for t in range(4) if MASK[i, t]) for i in range(5)]
    z0 = sum(sum(float(others[i, t] - REF_OTHERS[i, t]) for t in range(4) if MASK[i, t]) for i in range(5)) / 5
    assert z0 > 0.5
    each = [
        1.3 * (1 - 1 / (1 + math.exp(-0.7 * (r[i] - z0)))) if GOOD[i] else 0.7 / (1 + math.exp(-0.7 * (r[i] - z0)))
        for i in range(5)
    ]
    assert value(loss, others=others).item() == pytest.approx(sum(each) / 5, rel=1e-12)


def test_the_reference_point_is_at_least_0_and_has_no_gradient():
    less = OTHERS - 5
    assert KTO().reference_point(less, REF_OTHERS) == 0
    unpaired = KTO(form="apo_zero_unpaired")
    torch.testing.assert_close(value(others=less), unpaired(LOGPS, REF, GOOD, MASK))
    moved = (OTHERS + 1).requires_grad_()
    (slope,) = torch.autograd.grad(value(others=moved) + 0 * moved.sum(), moved)
    assert (slope == 0).all()


def test_the_reference_point_is_that_of_all_completions_whatever_part_has_them():
    whole = KTO().reference_point(OTHERS + 1, REF_OTHERS, MASK)
    parts = [KTO().reference_point(OTHERS[rows] + 1, REF_OTHERS[rows], MASK[rows]) for rows in ([0, 1, 2], [3, 4])]
    torch.testing.assert_close(whole, (3 * parts[0] + 2 * parts[1]) / 5)


def test_at_the_reference_every_completion_costs_half():
    torch.testing.assert_close(value(ref=LOGPS, others=REF_OTHERS), torch.tensor(0.5, dtype=torch.float64))


def test_desirable_completions_become_likelier_and_undesirable_ones_less():
    leaf = LOGPS.clone().requires_grad_()
    (slope,) = torch.autograd.grad(value(logps=leaf), leaf)
    kept = MASK != 0
    assert (slope[GOOD][kept[GOOD]] < 0).all() and (slope[~GOOD][kept[~GOOD]] > 0).all()
    assert (slope[~kept] == 0).all()


def test_completions_of_one_kind_alone_are_fine():
    for kind in (True, False):
        assert torch.isfinite(value(good=torch.full((5,), kind)))


def test_completions_without_a_token_are_left_out_and_hold_anything():
    mask, broken = MASK.clone(), LOGPS.clone()
    mask[1] = 0
    broken[1] = torch.nan
    broken.requires_grad_()
    with_empty = value(logps=broken, mask=mask)
    rest = [0, 2, 3, 4]
    alone = KTO()(LOGPS[rest], REF[rest], GOOD[rest], MASK[rest], OTHERS[rest], REF_OTHERS[rest], MASK[rest])
    torch.testing.assert_close(with_empty, alone)
    (slope,) = torch.autograd.grad(with_empty, broken)
    assert torch.isfinite(slope).all()
    assert KTO().denominator(logps=LOGPS, completion_mask=mask) == 4
    nothing = value(logps=broken, mask=torch.zeros(5, 4))
    assert nothing == 0 and torch.autograd.grad(nothing, broken)[0].abs().sum() == 0


def test_infinite_log_ratios_are_finite():
    never = torch.full_like(LOGPS, -torch.inf)
    for logps, ref in ((never, REF), (LOGPS, never), (never, never)):
        leaf = logps.clone().requires_grad_()
        found = value(KTO(beta=50.0), logps=leaf, ref=ref)
        assert torch.isfinite(found) and torch.isfinite(torch.autograd.grad(found, leaf)[0]).all()


def test_what_is_missing_or_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="^kto: form='kto' came without mismatched_logps .* or form='apo_zero_unp"):
        KTO()(LOGPS, REF, GOOD)
    with pytest.raises(ValueError, match="^kto: ref_logps is a NoneType; give a floating-point tensor"):
        KTO(form="apo_zero_unpaired")(LOGPS, None, GOOD)
    with pytest.raises(ValueError, match=r"^kto: desirable of shape \[4\] came with 5 completions; give \[B\]"):
        value(good=GOOD[:4])
