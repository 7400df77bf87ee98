import math

import pytest
import torch

from lightning_losses.losses import AOT, DPO
from tests.losses.preference.pairs import direct, examples, mean, numbers, sigmoid


def sorted_margins(values, paired):
    if not paired:
        pairs = numbers(values)
        return sorted(p.chosen for p in pairs), sorted(p.rejected for p in pairs)
    sums = numbers({name: value for name, value in values.items() if not name.startswith("ref_")})
    given = [p.chosen - p.rejected for p in sums]
    ratios = [p.chosen - p.rejected for p in numbers(values)]
    return sorted(given), sorted(own - ratio for own, ratio in zip(given, ratios, strict=True))


@pytest.mark.parametrize("paired", [True, False])
def test_value_from_the_definition(paired):
    values = examples()
    upper, lower = sorted_margins(values, paired)
    expected = [
        -0.9 * math.log(sigmoid(0.3 * (u - v))) - 0.1 * math.log(sigmoid(-0.3 * (u - v)))
        for u, v in zip(upper, lower, strict=True)
    ]
    torch.testing.assert_close(AOT(0.3, paired, 0.1)(**values), mean(expected))


def test_the_order_of_the_references_does_not_matter():
    values = examples()
    whole = {
        name: (value * values[f"{name.removeprefix('ref_').split('_')[0]}_mask"]).sum(dim=1, keepdim=True)
        for name, value in values.items()
        if name.endswith("logps")
    }
    moved = {**whole, **{name: whole[name].roll(1, 0) for name in ("ref_chosen_logps", "ref_rejected_logps")}}
    torch.testing.assert_close(AOT(0.3)(**moved), AOT(0.3)(**whole))
    assert not torch.isclose(DPO(0.3)(**moved), DPO(0.3)(**whole))


@pytest.mark.parametrize("paired", [True, False])
def test_one_pair_is_dpo(paired):
    torch.testing.assert_close(AOT(0.3, paired)(**direct(2.0, 0.5)), DPO(0.3)(**direct(2.0, 0.5)))


@pytest.mark.parametrize("paired", [True, False])
def test_pairs_without_a_token_have_no_rank(paired):
    values = examples()
    alone = {name: value[[0, 1, 3]] for name, value in values.items()}
    emptied = {**values, "chosen_mask": values["chosen_mask"].clone()}
    emptied["chosen_mask"][2] = 0
    torch.testing.assert_close(AOT(0.3, paired)(**emptied), AOT(0.3, paired)(**alone))


def test_ties_are_finite():
    even = torch.zeros(3, 1, dtype=torch.float64, requires_grad=True)
    value = AOT()(even, even, even.detach(), even.detach())
    torch.testing.assert_close(value.item(), math.log(2))
    assert bool(torch.isfinite(torch.autograd.grad(value, even)[0]).all())
