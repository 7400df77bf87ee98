"""What all losses of sampled completions keep: masks, averages, denominators, metrics, refusals."""

import pytest
import torch

from lightning_losses.losses import GRPO, Loss, PPOClip, loss_classes
from lightning_losses.losses.policy_gradient.completion_loss import CompletionLoss, with_normalizer
from lightning_losses.losses.policy_gradient.policy_gradient_loss import PolicyGradientLoss
from lightning_losses.objective import Objective, Term
from tests.losses.examples import build, tensors, with_gradients
from tests.losses.policy_gradient.batches import batch, slopes

ALL = [loss for loss in loss_classes() if issubclass(loss, CompletionLoss)]
POLICIES = [loss for loss in ALL if issubclass(loss, PolicyGradientLoss)]
every = pytest.mark.parametrize("loss", ALL, ids=lambda loss: loss.identifier())
every_policy = pytest.mark.parametrize("loss", POLICIES, ids=lambda loss: loss.identifier())
AGGREGATIONS = ("token_mean", "seq_mean", "max_length", "seq_sum")
every_aggregation = pytest.mark.parametrize("aggregation", AGGREGATIONS)


def averaging(loss, aggregation, **options):
    return build(loss, aggregation=aggregation, max_completion_length=4, **options)


def padded(values, by, fill):
    """Wider tensors, with anything in what was added."""
    wider = {
        name: torch.nn.functional.pad(tensor, (0, by), value=0 if name == "completion_mask" else fill)
        for name, tensor in values.items()
        if tensor.ndim == 2
    }
    return {**values, **wider}


def test_they_are_all_here():
    assert len(ALL) == 10 and len(POLICIES) == 9


@every
@every_aggregation
@pytest.mark.parametrize("garbage", [torch.nan, torch.inf, -torch.inf])
def test_what_is_masked_may_hold_anything_and_padding_changes_nothing(loss, aggregation, garbage):
    module, values = averaging(loss, aggregation), tensors(loss)
    value, found = with_gradients(module, values)
    other, others = with_gradients(module, padded(values, 2, garbage))
    torch.testing.assert_close(other, value, rtol=1e-12, atol=1e-12)
    for name, slope in found.items():
        torch.testing.assert_close(others[name][:, :-2], slope, rtol=1e-12, atol=1e-12)
        assert bool((others[name][:, -2:] == 0).all())


@every
@every_aggregation
def test_everything_masked_is_0_and_connected(loss, aggregation):
    module, values = averaging(loss, aggregation), tensors(loss)
    values["completion_mask"] = torch.zeros_like(values["completion_mask"])
    leaves = {name: value.requires_grad_() for name, value in values.items() if name in ("logps", "values")}
    value = module(**values)
    assert value == 0
    value.backward()
    assert all(bool((leaf.grad == 0).all()) for leaf in leaves.values())


@every_policy
def test_an_empty_completion_may_have_any_advantage(loss):
    module, values = build(loss), tensors(loss)
    values["completion_mask"][1] = False
    expected = module(**values)
    values["advantages"][1] = torch.nan
    torch.testing.assert_close(module(**values), expected)


@every
@every_aggregation
def test_the_order_of_completions_does_not_matter(loss, aggregation):
    module, values = averaging(loss, aggregation), tensors(loss)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    turned = {name: value[order] for name, value in values.items()}
    torch.testing.assert_close(module(**turned), module(**values))


@every
@every_aggregation
@pytest.mark.parametrize("count_empty", [False, True])
def test_parts_of_a_batch_weighed_by_their_denominators_are_the_batch(loss, aggregation, count_empty):
    module, values = averaging(loss, aggregation, count_empty=count_empty), tensors(loss)
    values["completion_mask"][1] = False
    value, found = with_gradients(module, values)
    total, gathered = 0.0, {name: [] for name in found}
    whole = module.denominator(**values)
    for rows in (slice(0, 1), slice(1, 2), slice(2, 6)):
        part = {name: tensor[rows] for name, tensor in values.items()}
        share = module.denominator(**part) / whole
        own, slopes_of = with_gradients(module, part)
        total = total + share * own
        for name, slope in slopes_of.items():
            gathered[name].append(share * slope)
    torch.testing.assert_close(total, value)
    for name, slope in found.items():
        torch.testing.assert_close(torch.cat(gathered[name]), slope)


@every
def test_an_objective_counts_what_the_mean_divides_by(loss):
    values = tensors(loss)
    counts = {
        aggregation: int(Term(averaging(loss, aggregation)).count(values).samples) for aggregation in AGGREGATIONS
    }
    # Six completions, every second of three tokens with one less.
    assert counts == {"token_mean": 15, "seq_mean": 6, "max_length": 6, "seq_sum": 6}


@every
def test_a_normalizer_takes_the_place_of_the_denominator(loss):
    module, values = build(loss, aggregation="token_mean"), tensors(loss)
    torch.testing.assert_close(with_normalizer(module, 15, **values), module(**values))
    torch.testing.assert_close(with_normalizer(module, 30, **values), module(**values) / 2)


def test_averages_are_what_they_say():
    values = {
        "logps": torch.zeros(3, 2),
        "advantages": torch.tensor([[1.0, 3.0], [5.0, 0.0], [7.0, 7.0]]),
        "completion_mask": torch.tensor([[1, 1], [1, 0], [0, 0]]),
    }
    means = {name: -averaging(PPOClip, name, beta=0.0, entropy_weight=0.0)(**values).item() for name in AGGREGATIONS}
    assert means == {"token_mean": 3.0, "seq_mean": 3.5, "max_length": 1.125, "seq_sum": 4.5}
    counted = {
        name: -averaging(PPOClip, name, count_empty=True, beta=0.0, entropy_weight=0.0)(**values).item()
        for name in AGGREGATIONS
    }
    assert counted == {"token_mean": 3.0, "seq_mean": pytest.approx(7 / 3), "max_length": 0.75, "seq_sum": 3.0}


def test_a_tokens_share_of_the_gradient_is_by_its_completion_or_by_all():
    values = {**batch(), "advantages": torch.ones(6, dtype=torch.float64)}
    del values["old_logps"]
    lengths = values["completion_mask"].sum(1)
    for aggregation, share in (("seq_mean", 1 / (6 * lengths)), ("token_mean", 1 / lengths.sum().expand(6))):
        expected = -(share.unsqueeze(1) * values["completion_mask"]).double()
        torch.testing.assert_close(slopes(GRPO(aggregation=aggregation), values), expected, check_dtype=False)


@every_policy
def test_without_old_log_probabilities_it_is_as_if_they_were_its_own(loss):
    module, values = build(loss), tensors(loss)
    own = {**values, "old_logps": values["logps"].clone()}
    del values["old_logps"]
    for found, expected in zip(with_gradients(module, values), with_gradients(module, own), strict=True):
        torch.testing.assert_close(found, expected)


@every_policy
@pytest.mark.parametrize("by", [torch.inf, -torch.inf, 1e4, -1e4])
@pytest.mark.parametrize("whose", ["logps", "old_logps", "ref_logps"])
def test_impossible_tokens_and_overflowing_ratios_are_finite(loss, whose, by):
    if by == torch.inf:  # a log-probability above 0 is none
        return
    module, values = build(loss).float(), tensors(loss)
    values = {name: value.float() if value.is_floating_point() else value for name, value in values.items()}
    values[whose][0, 0] = by if by < 0 else values[whose][0, 0] - by
    values["advantages"][0] = 2.0
    for sign in (1, -1):
        value, found = with_gradients(module, {**values, "advantages": sign * values["advantages"]})
        assert bool(value.isfinite()) and all(bool(slope.isfinite().all()) for slope in found.values())


@every_policy
def test_kl_and_entropy_are_added_to_what_the_policy_costs(loss):
    values = tensors(loss)
    plain = build(loss, beta=0.0, entropy_weight=0.0)
    kl = build(loss, beta=0.5, entropy_weight=0.0)
    both = build(loss, beta=0.5, entropy_weight=0.25)
    kept = values["completion_mask"]
    expected = plain.average(values["entropies"], kept)
    torch.testing.assert_close(kl(**values) - both(**values), 0.25 * expected)
    d = values["ref_logps"] - values["logps"]
    torch.testing.assert_close(kl(**values) - plain(**values), 0.5 * plain.average(d.exp() - 1 - d, kept))


@every_policy
def test_metrics_have_no_gradient_and_are_means_over_tokens(loss):
    module, values = build(loss), tensors(loss)
    found = module.metrics(**{**values, "logps": values["logps"].requires_grad_()})
    kept = values["completion_mask"]
    assert not any(value.requires_grad for value in found.values())
    drift = (values["old_logps"] - values["logps"].detach())[kept].mean()
    torch.testing.assert_close(found["approximate_kl"], drift)
    torch.testing.assert_close(found["entropy"], values["entropies"][kept].mean())
    if "clip_low" in found:
        torch.testing.assert_close(found["clip_low"] + found["clip_high"], found["clip_region"])
    empty = module.metrics(**{**values, "completion_mask": torch.zeros_like(kept)})
    assert all(value == 0 for value in empty.values())


def test_shares_that_are_clipped_are_counted_by_sign_and_side():
    ratios = torch.tensor([[0.5, 0.5, 1.0, 1.5, 1.5, 1.5]], dtype=torch.float64)
    values = {
        "logps": ratios.log(),
        "old_logps": torch.zeros_like(ratios),
        "advantages": torch.tensor([[1.0, -1.0, 1.0, 1.0, 1.0, -1.0]]).double(),
    }
    found = PPOClip().metrics(**values)
    clipped = slopes(PPOClip(), values) == 0
    assert found["clip_region"].item() == pytest.approx(clipped.double().mean().item()) == pytest.approx(0.5)
    assert (found["clip_low"].item(), found["clip_high"].item()) == pytest.approx((1 / 6, 2 / 6))


def test_an_objective_feeds_a_policy_and_its_critic():
    values = tensors(PPOClip) | tensors(next(loss for loss in ALL if loss.identifier() == "ppo_value_loss"))
    critic = build(next(loss for loss in ALL if loss.identifier() == "ppo_value_loss"))
    policy: Loss = build(PPOClip)
    value = Objective({"policy": policy, "critic": Term(critic, weight=0.1)})(**values)
    own = [{name: values[name] for name in loss.inputs()} for loss in (policy, critic)]
    torch.testing.assert_close(value.total, policy(**own[0]) + 0.1 * critic(**own[1]))


@every
def test_a_mean_by_length_without_one_is_refused(loss):
    with pytest.raises(ValueError, match=rf"^{loss.identifier()}: aggregation='max_length' came without max_comp"):
        loss(aggregation="max_length")
    with pytest.raises(ValueError, match=rf"^{loss.identifier()}: aggregation='mean' came; choose one of"):
        loss(aggregation="mean")


@every_policy
@pytest.mark.parametrize("name", ["old_logps", "ref_logps", "entropies", "sampling_ratio"])
def test_tensors_of_another_shape_are_refused(loss, name):
    values = tensors(loss)
    with pytest.raises(ValueError, match=rf"^{loss.identifier()}: {name} of shape \[6\] came"):
        build(loss)(**{**values, name: torch.zeros(6)})


@every_policy
def test_advantages_and_masks_of_another_shape_are_refused(loss):
    values = tensors(loss)
    with pytest.raises(ValueError, match=rf"^{loss.identifier()}: advantages of shape \[5\] came"):
        build(loss)(**{**values, "advantages": torch.zeros(5)})
    with pytest.raises(ValueError, match=rf"^{loss.identifier()}: .*mask of shape \[6\]"):
        build(loss)(**{**values, "completion_mask": torch.ones(6)})
    with pytest.raises(ValueError, match=rf"^{loss.identifier()}: logps of shape \[6\] came"):
        build(loss)(**{**values, "logps": torch.zeros(6)})
