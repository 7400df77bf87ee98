"""Group relative policy optimisation, against its definition."""

import math

import pytest
import torch

from lightning_losses.losses import GRPO, PPOClip
from lightning_losses.losses.policy_gradient.completion_loss import with_normalizer
from lightning_losses.losses.policy_gradient.grpo import quantile_where
from lightning_losses.numerics.kl_estimate import kl_estimate
from tests.losses.examples import with_gradients
from tests.losses.policy_gradient.batches import assert_equal, batch, by_token, clipped, slopes


def with_reference(seed=0):
    values = batch(seed)
    other = batch(seed + 50)
    return {**values, "ref_logps": other["logps"], "entropies": other["old_logps"].abs()}


@pytest.mark.parametrize("delta", [None, 0.7, 1.1, 1.5, 3.0])
def test_it_is_the_two_sided_clip(delta):
    values = batch(drift=1.0)

    def cost(log_ratio, advantage, _):
        ratio = math.exp(log_ratio)
        capped = ratio if delta is None else min(ratio, delta)
        return -min(capped * advantage, min(max(ratio, 0.8), 1.28) * advantage)

    loss = GRPO(delta, epsilon_high=0.28)
    assert_equal(loss(**values), by_token(values, cost))
    leaf = values["logps"].clone().requires_grad_()
    ratio = (leaf - values["old_logps"]).exp()
    a = values["advantages"].unsqueeze(1)
    capped = ratio if delta is None else ratio.clamp(max=delta)
    surrogate = -torch.minimum(capped * a, ratio.clamp(0.8, 1.28) * a)
    surrogate[values["completion_mask"]].mean().backward()
    torch.testing.assert_close(slopes(loss, values), leaf.grad)


@pytest.mark.parametrize("beta", [0.04, 1.0])
def test_the_kl_is_added_unweighted(beta):
    values = with_reference()

    def k3(now, reference):
        return math.exp(reference - now) - 1 - (reference - now)

    each = [
        k3(now, reference)
        for now, reference, kept in zip(
            *(values[name].flatten().tolist() for name in ("logps", "ref_logps", "completion_mask")), strict=True
        )
        if kept
    ]
    expected = by_token(values, lambda r, a, _: clipped(r, a)) + beta * sum(each) / len(each)
    assert_equal(GRPO(beta=beta)(**values), expected)


def test_the_kl_is_corrected_by_a_ratio_that_has_a_gradient():
    values = with_reference()
    leaf = values["logps"].clone().requires_grad_()
    kl = kl_estimate(leaf, values["ref_logps"]) * (leaf - values["old_logps"]).exp()
    expected = torch.autograd.grad(kl[values["completion_mask"]].mean(), leaf)[0]
    found = slopes(GRPO(importance_corrected_kl=True, beta=1.0), values) - slopes(GRPO(), values)
    torch.testing.assert_close(found, expected)


def test_with_equal_rewards_the_kl_alone_is_left():
    values = {**with_reference(), "advantages": torch.zeros(6, dtype=torch.float64)}
    kl = kl_estimate(values["logps"], values["ref_logps"])[values["completion_mask"]].mean()
    torch.testing.assert_close(GRPO(beta=0.3)(**values), 0.3 * kl)
    assert GRPO()(**values) == 0 and bool((slopes(GRPO(), values) == 0).all())


def test_bad_completions_that_the_policy_left_are_left_out_but_counted():
    values = batch(drift=1.0)
    drift = ((values["old_logps"] - values["logps"]) * values["completion_mask"]).sum(1) / values[
        "completion_mask"
    ].sum(1)
    dropped = (values["advantages"] < 0) & (drift > 0.15)
    assert 0 < int(dropped.sum()) < 6
    expected = GRPO()(**{**values, "advantages": values["advantages"].masked_fill(dropped, 0.0)})
    torch.testing.assert_close(GRPO(off_policy_threshold=0.15)(**values), expected)
    assert bool((slopes(GRPO(off_policy_threshold=0.15), values)[dropped] == 0).all())


@pytest.mark.parametrize("share", [0.1, 0.37, 0.8])
def test_the_tokens_of_the_largest_entropies_keep_their_term(share):
    values = with_reference()
    kept = values["completion_mask"]
    floor = torch.quantile(values["entropies"][kept], 1 - share)
    chosen = kept & (values["entropies"] >= floor)
    each = values["advantages"].unsqueeze(1).expand(6, 5).masked_fill(~chosen, 0.0)
    loss = GRPO(top_entropy=share)
    torch.testing.assert_close(loss(**values), GRPO()(**{**values, "advantages": each}))
    slope = slopes(loss, values)
    assert bool((slope[~chosen] == 0).all()) and bool((with_gradients(loss, values)[1]["entropies"] == 0).all())


def test_a_share_of_entropies_is_that_of_all_processes():
    assert GRPO(top_entropy=0.5).batch_coupled and not GRPO().batch_coupled


def test_quantiles_are_torchs():
    values = batch()["logps"]
    everywhere = torch.ones_like(values, dtype=torch.bool)
    for share in (0.0, 0.3, 0.5, 0.99, 1.0):
        torch.testing.assert_close(quantile_where(values, everywhere, share), torch.quantile(values, share))
    assert quantile_where(values, ~everywhere, 0.5) == torch.inf


@pytest.mark.parametrize("mask", ["all", "one"])
def test_a_share_of_nothing_and_of_one_token_is_finite(mask):
    values = with_reference()
    values["completion_mask"] = torch.zeros(6, 5)
    if mask == "one":
        values["completion_mask"][2, 1] = 1
    value, found = with_gradients(GRPO(top_entropy=0.2, beta=0.1), values)
    assert bool(value.isfinite()) and all(bool(slope.isfinite().all()) for slope in found.values())
    assert mask == "one" or value == 0


def test_the_sampling_ratio_weighs_the_policys_term_and_not_the_kl():
    values = with_reference()
    ratio = batch(7)["old_logps"].exp()
    weighed = {**values, "advantages": values["advantages"].unsqueeze(1) * ratio}
    torch.testing.assert_close(
        GRPO(beta=0.2)(**values, sampling_ratio=ratio), GRPO(beta=0.2)(**weighed), rtol=1e-12, atol=1e-12
    )


def test_a_tools_text_is_as_if_masked():
    values = batch()
    tools = torch.tensor([1, 1, 0, 1, 1])
    masked = {**values, "completion_mask": values["completion_mask"] & (tools != 0)}
    each = {**values, "completion_mask": values["completion_mask"].int() * tools}
    torch.testing.assert_close(GRPO()(**masked), GRPO()(**each))
    assert not torch.allclose(GRPO()(**masked), GRPO()(**values))


def test_it_is_ppos_with_verls_dual_clip():
    """verl's GRPO: where delta is above the range, both clip the same ratios."""
    values = {**batch(drift=2.0), "advantages": -torch.ones(6, dtype=torch.float64)}
    torch.testing.assert_close(GRPO(3.0)(**values), PPOClip(3.0)(**values))


def test_parts_of_a_step_divided_by_its_tokens_add_up():
    values = with_reference()
    loss = GRPO(beta=0.1)
    tokens = int(values["completion_mask"].sum())
    parts = [{name: tensor[rows] for name, tensor in values.items()} for rows in (slice(0, 1), slice(1, 6))]
    total = sum(with_normalizer(loss, tokens, **part) for part in parts)
    torch.testing.assert_close(total, loss(**values))


def test_what_a_setting_needs_is_asked_for():
    values = batch()
    for loss, name in (
        (GRPO(beta=0.04), "ref_logps"),
        (GRPO(entropy_weight=0.1), "entropies"),
        (GRPO(top_entropy=0.2), "entropies"),
    ):
        with pytest.raises(ValueError, match=rf"^grpo: \w+=[\d.]+ came without {name}; give {name}"):
            loss(**values)
