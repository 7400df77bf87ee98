import pytest
import torch

from lightning_losses.losses import CPO, DPO, IPO, NPO, ORPO, HingeDPO, PreferenceFormula, SimPO
from lightning_losses.losses.preference.preference_formula import named_formula

DRAW = torch.Generator().manual_seed(0)
CHOSEN, REF_CHOSEN = (-torch.rand(4, 3, dtype=torch.float64, generator=DRAW) for _ in range(2))
REJECTED, REF_REJECTED = (-torch.rand(4, 5, dtype=torch.float64, generator=DRAW) for _ in range(2))
MASK = torch.tensor([[1, 1, 1], [0, 1, 1], [1, 0, 0], [1, 1, 0]])
OTHER_MASK = torch.tensor([[1, 1, 1, 1, 0], [0, 0, 1, 0, 0], [1, 0, 1, 0, 1], [1, 1, 1, 1, 1]])
PAIRS = {"chosen_logps": CHOSEN, "rejected_logps": REJECTED, "chosen_mask": MASK, "rejected_mask": OTHER_MASK}
REFERENCE = {"ref_chosen_logps": REF_CHOSEN, "ref_rejected_logps": REF_REJECTED}


def logarithm(logps, mask, mean=False):
    kept = [row[keep != 0] for row, keep in zip(logps, mask, strict=True)]
    return torch.stack([row.mean() if mean else row.sum() for row in kept])


def test_every_part_of_a_formula_from_its_definition():
    loss = PreferenceFormula(
        "2 chosen + not(mean(rejected))", "0.5 ref_rejected + mean(ref_chosen)", beta=0.7, margin=0.3
    )
    top = 2 * logarithm(CHOSEN, MASK) + torch.log(1 - logarithm(REJECTED, OTHER_MASK, mean=True).exp())
    bottom = 0.5 * logarithm(REF_REJECTED, OTHER_MASK) + logarithm(REF_CHOSEN, MASK, mean=True)
    z = 0.7 * (top - bottom) - 0.3
    links = {"logistic": torch.log(1 + torch.exp(-z)), "hinge": (1 - z).clamp(min=0), "square": z**2}
    for link, value in links.items():
        loss.link = link
        torch.testing.assert_close(loss(**PAIRS, **REFERENCE), value.mean())


def test_against_the_complement_of_the_top_the_loss_is_minus_its_logarithm():
    value = named_formula("unlikelihood")(**PAIRS)
    p, q = logarithm(CHOSEN, MASK).exp(), logarithm(REJECTED, OTHER_MASK).exp()
    torch.testing.assert_close(value, -(p.log() + torch.log(1 - q)).mean())
    likelihood = PreferenceFormula("chosen", "not top", beta=1.0)(**PAIRS)
    torch.testing.assert_close(likelihood, -logarithm(CHOSEN, MASK).mean())


@pytest.mark.parametrize(
    ("formula", "loss"),
    [
        (named_formula("dpo", beta=0.3), DPO(0.3)),
        (named_formula("hinge", beta=0.3), HingeDPO(0.3)),
        (named_formula("ipo", beta=0.3), IPO(0.3)),
        (named_formula("cpo", beta=0.3), CPO(0.3, nll_weight=0.0)),
        (named_formula("simpo", beta=2.0, margin=0.7), SimPO(2.0, gamma=0.7)),
        (named_formula("orpo", beta=0.3), ORPO(0.3, nll_weight=0.0)),
    ],
    ids=["dpo", "hinge", "ipo", "cpo", "simpo", "orpo"],
)
def test_a_row_is_the_loss_of_its_name(formula, loss):
    outcomes = []
    for each in (formula, loss):
        leaves = {name: PAIRS[name].clone().requires_grad_() for name in ("chosen_logps", "rejected_logps")}
        given = {name: value for name, value in {**PAIRS, **REFERENCE, **leaves}.items() if name in each.inputs()}
        value = each(**given)
        outcomes.append([value, *torch.autograd.grad(value, list(leaves.values()))])
    torch.testing.assert_close(*outcomes, rtol=1e-12, atol=1e-14)


def test_npo_is_the_loss_of_unlearning_on_the_rejected_completions():
    value = named_formula("npo", beta=0.3)(**PAIRS, **REFERENCE)
    torch.testing.assert_close(value, NPO(0.3)(REJECTED, REF_REJECTED, OTHER_MASK))


def test_a_probability_of_1_has_a_finite_complement():
    leaf = torch.zeros(2, 1, requires_grad=True)
    for formula in (PreferenceFormula("chosen + not(rejected)", "not top"), named_formula("orpo")):
        value = formula(leaf, leaf)
        assert torch.isfinite(value) and torch.isfinite(torch.autograd.grad(value, leaf)[0]).all()


@pytest.mark.parametrize(
    "formula",
    ["", "chose", "chosen - rejected", "chosen +", "mean(chosen", "chosen)", "not(ref_chosen))", "-1 chosen", 3],
)
def test_what_is_no_formula_is_refused(formula):
    for side in ("top", "bottom"):
        with pytest.raises(ValueError, match=f"^preference_formula: {side}=.* came; give a sum such as "):
            PreferenceFormula(**{side: formula})


def test_a_reference_that_did_not_come_is_refused_where_the_formula_has_it():
    with pytest.raises(
        ValueError, match="^preference_formula: the formula has ref_chosen, but no ref_chosen_logps came"
    ):
        PreferenceFormula()(**PAIRS)
    assert torch.isfinite(named_formula("cpo")(**PAIRS))
    with pytest.raises(ValueError, match="^named_formula: name='ppo' came; choose one of 'dpo', "):
        named_formula("ppo")
