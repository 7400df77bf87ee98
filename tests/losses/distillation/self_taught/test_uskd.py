import pytest
import torch
import torch.nn.functional as F
from hypothesis import given

from lightning_losses.losses import USKD
from lightning_losses.losses.distillation.self_taught.uskd import zipf_labels
from tests.losses.strategies import gradient, one_hot, pairs


def uskd_loss(logits, weak_logits, target, **options):
    return USKD(num_classes=logits.shape[-1], **options).with_weak_logits(logits, weak_logits, target)


# Below, the second tensor of a pair plays the weak head's logits.


@given(pairs())
def test_the_target_weights_have_mean_one(pair):
    s_y = pair.logits.softmax(dim=-1).gather(-1, pair.target[:, None]).squeeze(-1)
    weight = s_y**2 + 1 - (s_y**2).mean()
    torch.testing.assert_close(weight.mean(), torch.ones((), dtype=weight.dtype))
    value = uskd_loss(*pair, alpha=1.0, beta=0.0, mu=0.0)
    torch.testing.assert_close(value, -(weight * s_y.log()).mean())


@given(pairs())
def test_a_single_sample_gets_cross_entropy(pair):
    single = [tensor[:1] for tensor in pair]
    torch.testing.assert_close(uskd_loss(*single, beta=0.0, mu=0.0), F.cross_entropy(single[0], single[2]))


@given(pairs())
def test_the_weak_head_learns_smoothed_labels(pair):
    value = uskd_loss(*pair, alpha=0.0, beta=0.0, mu=2.0)
    expected = 2 * F.cross_entropy(pair.teacher_logits, pair.target, label_smoothing=0.1)
    torch.testing.assert_close(value, expected)


@given(pairs(min_classes=3))
def test_gradients_in_closed_form(pair):
    label = one_hot(pair.target, pair.logits)
    s, log_w = pair.logits.softmax(dim=-1), pair.teacher_logits.log_softmax(dim=-1)
    s_y = (s * label).sum(dim=-1, keepdim=True)
    weight = s_y**2 + 1 - (s_y**2).mean()
    zipf = zipf_labels(s.log(), log_w, label.bool(), "reference")
    s_hat = pair.logits.masked_fill(label.bool(), -torch.inf).softmax(dim=-1)
    expected = (weight * (s - label) + 0.5 * (s_hat - zipf)) / len(s)
    torch.testing.assert_close(gradient(lambda z: uskd_loss(z, *pair[1:], beta=0.5), pair.logits), expected)
    by_weak = gradient(lambda w: uskd_loss(pair.logits, w, pair.target, beta=0.5, mu=3.0), pair.teacher_logits)
    smoothed = 0.9 * label + 0.1 / s.shape[-1]
    torch.testing.assert_close(by_weak, 3 * (log_w.exp() - smoothed) / len(s))


@given(pairs(min_classes=3))
def testzipf_labels_are_a_distribution_over_the_others(pair):
    label = one_hot(pair.target, pair.logits).bool()
    zipf = zipf_labels(pair.logits.log_softmax(-1), pair.teacher_logits.log_softmax(-1), label, "probability")
    torch.testing.assert_close(zipf.sum(dim=-1), torch.ones(len(zipf), dtype=zipf.dtype))
    assert bool((zipf[label] == 0).all()) and bool((zipf[~label] > 0).all())


def test_ranks_count_the_target():
    """The target ranks first of four classes: the others get 1/2, 1/3, 1/4, normalised."""
    log_p = torch.tensor([[0.5, 0.25, 0.15, 0.1]], dtype=torch.float64).log()
    label = torch.tensor([[True, False, False, False]])
    zipf = zipf_labels(log_p, log_p, label, "probability")
    torch.testing.assert_close(zipf, torch.tensor([[0.0, 6.0, 4.0, 3.0]], dtype=torch.float64) / 13)


@given(pairs(min_classes=3))
def test_permuting_classes_permutes_gradients(pair):
    order = torch.randperm(pair.logits.shape[-1])
    moved = (pair.logits[:, order], pair.teacher_logits[:, order], order.argsort()[pair.target])
    torch.testing.assert_close(gradient(uskd_loss, *moved), gradient(uskd_loss, *pair)[:, order])


@given(pairs())
def test_two_classes_have_no_others(pair):
    two = (pair.logits[:, :2], pair.teacher_logits[:, :2], pair.target.clamp(max=1))
    assert torch.equal(uskd_loss(*two, beta=5.0), uskd_loss(*two, beta=0.0))


@given(pairs(min_classes=3))
def test_one_hot_rows_are_class_indices(pair):
    hard = uskd_loss(*pair, beta=0.5, mu=1.0)
    soft = uskd_loss(pair.logits, pair.teacher_logits, one_hot(pair.target, pair.logits), beta=0.5, mu=1.0)
    torch.testing.assert_close(soft, hard)


def test_the_head_and_the_features_learn_from_the_weak_term_alone():
    loss = USKD(num_classes=3, feature_dim=4, mu=0.0)
    features = torch.randn(5, 4, requires_grad=True)
    loss(torch.randn(5, 3), features, torch.tensor([0, 1, 2, 0, 1])).backward()
    assert bool((features.grad == 0).all()) and bool((loss.head.weight.grad == 0).all())
    weak = USKD(num_classes=3, feature_dim=4, mu=1.0)
    weak(torch.randn(5, 3), features, torch.tensor([0, 1, 2, 0, 1])).backward()
    assert bool((features.grad != 0).any()) and bool((weak.head.weight.grad != 0).any())


def test_a_lazy_head_takes_its_width_from_the_first_batch():
    loss = USKD(num_classes=3)
    loss(torch.randn(2, 3), torch.randn(2, 7), torch.tensor([0, 1]))
    assert loss.head.weight.shape == (3, 7)


@pytest.mark.parametrize("features", [torch.zeros(2, 4, 3, 3), torch.zeros(3, 4), torch.zeros(4)])
def test_features_that_do_not_fit_are_refused(features):
    with pytest.raises(ValueError, match="^uskd: features of shape"):
        USKD(num_classes=3, feature_dim=4)(torch.zeros(2, 3), features, torch.tensor([0, 1]))


@pytest.mark.parametrize(
    "options", [{"rank_mode": "paper"}, {"reduction": "none"}, {"alpha": -1.0}, {"num_classes": 1}]
)
def test_bad_options_are_refused(options):
    with pytest.raises(ValueError, match=f"^uskd: {next(iter(options))}"):
        USKD(**{"num_classes": 3, **options})
