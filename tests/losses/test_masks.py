"""Classes masked by -inf in either network, or both: every divergence stays one, and nothing else is masked."""

import copy

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from lightning_losses import losses
from lightning_losses.losses import loss_classes
from lightning_losses.losses.kinds import TaughtLoss
from lightning_losses.numerics import probabilities
from lightning_losses.numerics.rows import on_shared_support
from tests.losses.examples import build, tensors
from tests.losses.strategies import Pair

CLASSES = 6

# At the limits of their settings too, where another formula holds.
DIVERGENCES = {
    "ab": losses.ABDivergence(),
    "ab_forward": losses.ABDivergence(0.6, 0.0),
    "ab_reverse": losses.ABDivergence(0.0, 0.6),
    "ab_squared": losses.ABDivergence(0.0, 0.0),
    "ab_negative": losses.ABDivergence(0.5, -0.4),
    "ab_opposite": losses.ABDivergence(0.7, -0.7),
    "adaptive_alpha": losses.AdaptiveAlphaDivergence(),
    "adaptive_alpha_reverse": losses.AdaptiveAlphaDivergence(0.0, 0.5),
    "adaptive_kl": losses.AdaptiveKL(),
    "bdkd": losses.BDKD(temperature=2.0),
    "binary_kl": losses.BinaryKL(),
    "binary_kl_norm": losses.BinaryKLNorm(),
    "forward_kl": losses.ForwardKL(),
    "jsd": losses.GeneralizedJSD(0.3),
    "jsd_0": losses.GeneralizedJSD(0.0),
    "jsd_1": losses.GeneralizedJSD(1.0),
    "kd": losses.KD(2.0),
    "kl_top": losses.KLTop(k=3, tail_bucket=True),
    "reverse_kl": losses.ReverseKL(1.5),
    "skew_kl": losses.SkewKL(),
    "skew_kl_0": losses.SkewKL(0.0),
    "skew_rkl": losses.SkewRKL(),
    "skew_rkl_0": losses.SkewRKL(0.0),
    "symmetric_kl": losses.SymmetricKL(0.4),
    "total_variation": losses.TotalVariation(),
    "dac_kl": losses.DACKL(num_classes=CLASSES, bounds=(0.0, 1.0)),
    "dkd": losses.DKD(),
    "group_kd": losses.GroupKD(groups=[[0, 1, 2], [3, 4, 5]]),
    "logit_std_kd": losses.LogitStdKD(),
}
# Their gradient is not that of their value, by definition.
CONSTANT_PARTS = {"adaptive_alpha", "adaptive_alpha_reverse", "adaptive_kl"}
# Only a part of what the networks say is compared: equal in that, they may differ.
BLIND = {"kl_top", "group_kd", "logit_std_kd"}

divergences = pytest.mark.parametrize("name", DIVERGENCES)


def rows(name, logits, teacher_logits, target, shared_support=False):
    loss = copy.copy(DIVERGENCES[name])
    loss.reduction, loss.shared_support = "none", shared_support
    return loss(logits, teacher_logits, *((target,) if isinstance(loss, losses.DKD) else ()))


def masked_pair(seed):
    """Rows of two networks, with some classes masked in one, in both, or in none; they share two and the target."""
    generator = torch.Generator().manual_seed(seed)
    scale = 5 * torch.rand(4, 1, dtype=torch.float64, generator=generator) + 0.3
    logits, teacher = (scale * torch.randn(4, CLASSES, dtype=torch.float64, generator=generator) for _ in range(2))
    place = torch.rand(4, CLASSES, generator=generator).argsort(dim=-1)
    whose = torch.randint(4, (4, CLASSES), generator=generator).masked_fill(place < 3, 0)
    return Pair(
        logits.masked_fill(whose & 1 > 0, -torch.inf), teacher.masked_fill(whose & 2 > 0, -torch.inf), place.argmin(-1)
    )


masked_pairs = st.integers(0, 2**31).map(masked_pair)


def test_every_divergence_is_here():
    folder = {loss for loss in loss_classes() if ".divergences." in loss.__module__}
    assert folder <= {type(loss) for loss in DIVERGENCES.values()}


@divergences
@settings(max_examples=10)
@given(pair=masked_pairs)
def test_it_is_at_least_0_and_0_at_the_teacher_alone(name, pair):
    value = rows(name, *pair)
    assert bool(torch.isfinite(value).all())
    assert bool((value > (-1e-12 if name in BLIND else 0)).all())
    torch.testing.assert_close(rows(name, pair.teacher_logits, *pair[1:]), torch.zeros_like(value), rtol=0, atol=1e-12)


@divergences
@settings(max_examples=5)
@given(pair=masked_pairs, seed=st.integers(0, 2**31))
def test_its_gradient_is_that_of_the_value_and_0_at_a_masked_class(name, pair, seed):
    leaf = pair.logits.clone().requires_grad_()
    slope = torch.autograd.grad(rows(name, leaf, *pair[1:]).sum(), leaf)[0]
    masked = torch.isneginf(pair.logits)
    assert bool(torch.isfinite(slope).all()) and bool((slope[masked] == 0).all())
    if name in CONSTANT_PARTS:
        return
    direction = torch.randn(leaf.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    direction = direction.masked_fill(masked, 0.0)
    ahead, behind = (rows(name, pair.logits + step * direction, *pair[1:]).sum() for step in (1e-6, -1e-6))
    # Central differences of values up to 1e4.
    torch.testing.assert_close((slope * direction).sum(), (ahead - behind) / 2e-6, rtol=1e-5, atol=1e-5)


@divergences
@settings(max_examples=2)
@given(pair=masked_pairs)
def test_a_device_whose_values_are_not_read_gives_the_same(name, pair):
    value = rows(name, *pair)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probabilities, "_read", lambda *_: None)
        torch.testing.assert_close(rows(name, *pair), value, rtol=1e-12, atol=1e-12)


@divergences
@settings(max_examples=5)
@given(pair=masked_pairs, where=st.integers(0, CLASSES - 1), wrong=st.sampled_from([torch.nan, torch.inf]))
def test_nothing_else_is_masked(name, pair, where, wrong):
    for place in (0, 1):
        broken = [pair.logits.clone(), pair.teacher_logits.clone()]
        broken[place][0, where] = wrong
        value = rows(name, *broken, pair.target)
        assert not bool(torch.isfinite(value[0])) and bool(torch.isfinite(value[1:]).all())
        assert wrong == torch.inf or bool(torch.isnan(value[0]))


@divergences
def test_a_class_that_both_mask_is_as_if_absent(name):
    if name == "group_kd":  # its groups name the classes
        return
    generator = torch.Generator().manual_seed(0)
    logits, teacher = (3 * torch.randn(4, CLASSES, dtype=torch.float64, generator=generator) for _ in range(2))
    target = torch.tensor([0, 1, 2, 0])
    wider = [torch.nn.functional.pad(z, (0, 2), value=-torch.inf) for z in (logits, teacher)]
    torch.testing.assert_close(rows(name, *wider, target), rows(name, logits, teacher, target), rtol=1e-12, atol=1e-12)


@divergences
@settings(max_examples=2)
@given(pair=masked_pairs)
def test_on_the_shared_support_only_what_both_have_is_compared(name, pair):
    shared = on_shared_support(*pair[:2])
    torch.testing.assert_close(rows(name, *pair, shared_support=True), rows(name, *shared, pair.target))
    # What a network has alone makes no difference.
    logits = torch.where(torch.isneginf(shared[0]) & ~torch.isneginf(pair.logits), 9.0, pair.logits)
    torch.testing.assert_close(
        rows(name, logits, *pair[1:], shared_support=True), rows(name, *pair, shared_support=True)
    )


@pytest.mark.parametrize(
    "loss", [loss for loss in loss_classes() if issubclass(loss, TaughtLoss)], ids=lambda loss: loss.identifier()
)
def test_a_loss_says_whether_it_needs_the_teachers_tail(loss, monkeypatch):
    """It does if what stands for an infinite logarithm enters the value."""
    values = tensors(loss)
    values["teacher_logits"][:, 0] = -torch.inf
    if "target" in values:
        values["target"] = values["target"].clamp(min=1)
    value = build(loss)(**values)
    monkeypatch.setattr(probabilities, "LOG_OF_ZERO", -60.0)
    assert loss.needs_tail == (abs(build(loss)(**values) - value).item() > 1e-9)


def test_training_by_a_reverse_divergence_stays_within_the_teachers_classes():
    generator = torch.Generator().manual_seed(0)
    teacher = 2 * torch.randn(1, 50, generator=generator)
    kept = teacher.topk(5).indices
    teacher = torch.full_like(teacher, -torch.inf).scatter(1, kept, teacher.gather(1, kept))
    logits = torch.zeros(1, 50, requires_grad=True)
    for _ in range(100):
        loss = losses.ReverseKL()(logits, teacher)
        logits = (logits - torch.autograd.grad(loss, logits)[0]).detach().requires_grad_()
    assert loss.item() >= 0
    assert logits.softmax(dim=-1).gather(1, kept).sum().item() > 0.99
