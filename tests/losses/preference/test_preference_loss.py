"""What every loss of pairs has in common: masks, sums by length, weights, extremes and refusals."""

import pytest
import torch

from lightning_losses.losses import DPO, SimPO, loss_classes
from lightning_losses.losses.preference.preference_loss import DirectPreferenceLoss, PreferenceLoss
from tests.losses.preference.pairs import examples

# Those that take what the kinds here take.
EVERY = [
    loss for loss in loss_classes() if issubclass(loss, PreferenceLoss) and set(loss.inputs()) <= set(DPO.inputs())
]
DIRECT = [loss for loss in EVERY if issubclass(loss, DirectPreferenceLoss)]
each = pytest.mark.parametrize("kind", EVERY, ids=lambda kind: kind.identifier())
each_direct = pytest.mark.parametrize("kind", DIRECT, ids=lambda kind: kind.identifier())


def taken(kind, values):
    return {name: value for name, value in values.items() if name in kind.inputs()}


def evaluated(loss, values):
    leaves = {name: values[name].detach().clone().requires_grad_() for name in ("chosen_logps", "rejected_logps")}
    value = loss(**taken(type(loss), {**values, **leaves}))
    return value.detach(), torch.autograd.grad(value.sum(), list(leaves.values()))


def weighted(values):
    sizes = {side: values[f"{side}_logps"] for side in ("chosen", "rejected")}
    return {**values, **{f"{side}_log_collisions": -0.5 - logps.square() for side, logps in sizes.items()}}


def test_the_family_is_here():
    assert len(EVERY) >= 17 and len(DIRECT) >= 14


@each
@pytest.mark.parametrize("garbage", [torch.nan, torch.inf, -torch.inf])
def test_a_token_that_does_not_count_may_hold_anything(kind, garbage):
    values = examples()
    value, slopes = evaluated(kind(), values)
    for name in [name for name in values if name.endswith("logps")]:
        mask = values[f"{name.removeprefix('ref_').split('_')[0]}_mask"]
        values[name] = values[name].masked_fill(mask == 0, garbage)
    other, others = evaluated(kind(), values)
    assert torch.equal(other, value)
    assert all(torch.equal(one, two) for one, two in zip(slopes, others, strict=True))


@each
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_a_pair_without_a_token_is_left_out(kind, reduction):
    values = examples()
    alone = {name: value[[0, 1, 3]] for name, value in values.items()}
    expected, _ = evaluated(kind(reduction=reduction), alone)
    emptied = {**values, "rejected_mask": values["rejected_mask"].clone()}
    emptied["rejected_mask"][2] = 0
    value, slopes = evaluated(kind(reduction=reduction), emptied)
    torch.testing.assert_close(value[[0, 1, 3]] if reduction == "none" else value, expected)
    assert all(bool((slope[2] == 0).all()) for slope in slopes)
    assert kind().denominator(**taken(kind, emptied)) == 3


@each
def test_completions_that_are_all_masked_are_0_with_zero_gradients(kind):
    values = examples()
    values |= {name: torch.zeros_like(values[name]) for name in ("chosen_mask", "rejected_mask")}
    value, slopes = evaluated(kind(), values)
    assert value.item() == 0 and all(bool((slope == 0).all()) for slope in slopes)


@each
def test_one_pair_is_finite(kind):
    value, slopes = evaluated(kind(), {name: value[:1] for name, value in examples().items()})
    assert bool(torch.isfinite(value)) and all(bool(torch.isfinite(slope).all()) for slope in slopes)


@each
def test_ties_are_finite(kind):
    values = examples()
    values |= {name: torch.full_like(values[name], -0.5) for name in values if name.endswith("logps")}
    value, slopes = evaluated(kind(), values)
    assert bool(torch.isfinite(value)) and all(bool(torch.isfinite(slope).all()) for slope in slopes)


@each
@pytest.mark.parametrize("name", ["chosen_logps", "rejected_logps", "ref_chosen_logps", "ref_rejected_logps"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_policy_or_reference_never_say_is_finite(kind, name, dtype):
    if name not in kind.inputs():
        return
    values = {key: value.to(dtype) if value.is_floating_point() else value for key, value in examples().items()}
    for extreme in (-torch.inf, -1e4):
        values[name] = torch.full_like(values[name], extreme)
        value, slopes = evaluated(kind(), values)
        assert bool(torch.isfinite(value)) and all(bool(torch.isfinite(slope).all()) for slope in slopes)
        if extreme == -torch.inf and not name.startswith("ref_"):
            assert bool((slopes[name == "rejected_logps"] == 0).all())


@each
def test_sums_of_completions_are_single_tokens(kind):
    """Where a loss adds, tokens may come added up; where it averages, the value is another."""
    values = examples()
    sums = {
        name: (value * values[f"{name.removeprefix('ref_').split('_')[0]}_mask"]).sum(dim=1, keepdim=True)
        for name, value in values.items()
        if name.endswith("logps")
    }
    options = {"nll_weight": 0.0} if kind.identifier() == "cpo" else {}
    same = torch.isclose(evaluated(kind(**options), sums)[0], evaluated(kind(**options), values)[0])
    assert bool(same) == (kind.identifier() not in ("ipo", "dpo_norm", "simpo", "orpo"))


@each_direct
def test_the_tail_counts_by_its_weight(kind):
    values, shortened = examples(), examples()
    for row in range(4):
        shared = min(int(values[f"{side}_mask"][row].sum()) for side in ("chosen", "rejected"))
        for side in ("chosen", "rejected"):
            tail = values[f"{side}_mask"][row].nonzero().flatten()[shared:]
            for name in (f"{side}_logps", f"ref_{side}_logps"):
                shortened[name][row, tail] *= 0.3
    torch.testing.assert_close(evaluated(kind(tail_weight=0.3), values)[0], evaluated(kind(), shortened)[0])
    assert not torch.isclose(evaluated(kind(tail_weight=0.3), values)[0], evaluated(kind(), values)[0])


@each_direct
def test_weights_are_constants_that_multiply_pairs(kind):
    values = weighted(examples())
    weights = 1.0
    for side in ("chosen", "rejected"):
        mask = values[f"{side}_mask"]
        excess = (values[f"{side}_logps"] - values[f"{side}_log_collisions"]) * mask
        weights = weights * (excess.sum(dim=1) / mask.sum(dim=1)).exp()
    plain = kind(reduction="none")
    value, slopes = evaluated(kind(weighting=True, reduction="none"), values)
    torch.testing.assert_close(value, weights * evaluated(plain, values)[0])
    leaves = [values[name].clone().requires_grad_() for name in ("chosen_logps", "rejected_logps")]
    named = dict(zip(("chosen_logps", "rejected_logps"), leaves, strict=True))
    expected = torch.autograd.grad((weights * plain(**{**values, **named})).sum(), leaves)
    torch.testing.assert_close(slopes, expected)


def test_weights_without_collisions_are_refused():
    with pytest.raises(ValueError, match=r"^dpo: weighting=True came without chosen_log_collisions; give log sum_v"):
        DPO(weighting=True)(**examples())
    values = weighted(examples())
    values["rejected_log_collisions"] = values["rejected_log_collisions"][:, 1:]
    with pytest.raises(ValueError, match=r"^dpo: rejected_log_collisions of shape \[4, 5\] came with .*\[4, 6\]"):
        DPO()(**values)


def test_a_reference_is_asked_for_by_name():
    values = examples()
    assert DPO.inputs()["ref_chosen_logps"] and DPO.inputs()["ref_rejected_logps"]
    assert "ref_chosen_logps" not in SimPO.inputs()
    with pytest.raises(ValueError, match=r"^dpo: ref_rejected_logps is a NoneType"):
        DPO()(**{**values, "ref_rejected_logps": None})


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"chosen_logps": torch.zeros(4)}, r"^dpo: chosen_logps of shape \[4\] came; give the log-probability of each"),
        ({"chosen_mask": torch.ones(4, 4)}, r"^dpo: chosen_logps of shape \[4, 5\] came with a mask of shape \[4, 4\]"),
        ({"ref_chosen_logps": torch.zeros(4, 4)}, r"^dpo: chosen_logps of shape \[4, 5\] came with the reference's"),
        ({"rejected_logps": torch.zeros(4, 6, dtype=torch.int64)}, r"^dpo: rejected_logps has dtype torch.int64"),
    ],
)
def test_what_does_not_fit_is_refused(change, told):
    with pytest.raises(ValueError, match=told):
        DPO()(**{**examples(), **change})


def test_a_completion_without_its_pair_is_refused():
    with pytest.raises(ValueError, match=r"^simpo: chosen_logps of 4 completions came with rejected_logps of 3"):
        SimPO()(torch.zeros(4, 2), torch.zeros(3, 2))
