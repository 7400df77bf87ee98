import math

import pytest
import torch
import torch.nn.functional as F

from lightning_losses.diagnostics.linear_heads import class_moments, gaussian_nb_head, logistic_head, merged_moments

GENERATOR = torch.Generator().manual_seed(0)
CENTRES = 2 * torch.randn(3, 4, dtype=torch.float64, generator=GENERATOR)
TARGET = torch.arange(60) % 3
FEATURES = CENTRES[TARGET] + torch.randn(60, 4, dtype=torch.float64, generator=GENERATOR)


def test_parts_are_the_whole_also_where_classes_are_missing_and_means_are_large():
    features = FEATURES + 1e6
    whole = class_moments(features, TARGET, 4)
    order = TARGET.argsort()
    parts = [class_moments(features[o], TARGET[o], 4) for o in (order[:15], order[15:15], order[15:41], order[41:])]
    for one, other in zip(merged_moments(*parts), whole, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    assert whole.samples.tolist() == [20, 20, 20, 0]
    torch.testing.assert_close(whole.deviation[1] / 20, FEATURES[TARGET == 1].var(dim=0, correction=0))


def test_what_has_no_largest_logit_is_neither_right_nor_wrong():
    head = gaussian_nb_head(class_moments(FEATURES, TARGET, 4))
    assert head.hits(FEATURES, TARGET) == (head.logits(FEATURES).argmax(dim=1) == TARGET).sum() > 30
    assert head.hits(FEATURES.index_fill(0, torch.tensor([7]), torch.nan), TARGET).isnan()


def test_naive_bayes_is_the_class_of_the_largest_posterior_of_one_diagonal_gaussian_each():
    target = TARGET.masked_fill(torch.arange(60) < 20, 1)
    groups = [FEATURES[target == k] for k in range(3)]
    shares = [len(group) / 60 for group in groups]
    pooled = sum(share * group.var(dim=0, correction=0) for share, group in zip(shares, groups, strict=True)) + 1e-9
    rows = 3 * torch.randn(50, 4, dtype=torch.float64, generator=GENERATOR)
    joint = torch.stack(
        [
            math.log(share) + torch.distributions.Normal(group.mean(dim=0), pooled.sqrt()).log_prob(rows).sum(dim=1)
            for share, group in zip(shares, groups, strict=True)
        ],
        dim=1,
    )
    logits = gaussian_nb_head(class_moments(FEATURES, target, 4)).logits(rows)
    torch.testing.assert_close(logits[:, :3].softmax(dim=1), joint.softmax(dim=1), rtol=1e-9, atol=1e-12)
    # The fourth class has no samples.
    assert bool((logits[:, 3] == -torch.inf).all())


def test_logistic_regression_is_at_its_minimum_in_any_units():
    head = logistic_head(FEATURES, TARGET, 3, decay=0.01)
    spread = FEATURES.std(dim=0, correction=0)
    weight, bias = (part.clone().requires_grad_() for part in head)
    value = F.cross_entropy(FEATURES @ weight.T + bias, TARGET) + 0.005 * (weight * spread).square().sum()
    assert all(float(slope.abs().max()) < 1e-5 for slope in torch.autograd.grad(value, [weight, bias]))
    units = torch.tensor([1e-3, 1.0, 50.0, 0.0], dtype=torch.float64)
    other = logistic_head(FEATURES * units + 7, TARGET, 3)
    assert bool(other.logits(FEATURES * units + 7).isfinite().all()) and bool((other.weight[:, 3] == 0).all())


def test_naive_bayes_is_more_accurate_where_its_model_holds():
    torch.manual_seed(0)
    centres, scales = 0.35 * torch.randn(5, 60), torch.logspace(-1, 1, 60)

    def draw(number):
        target = torch.arange(number) % 5
        return (centres[target] + torch.randn(number, 60)) * scales, target

    (few, few_target), (test, test_target) = draw(100), draw(500)
    heads = gaussian_nb_head(class_moments(few, few_target, 5)), logistic_head(few, few_target, 5)
    bayes, logistic = ((head.logits(test).argmax(dim=1) == test_target).double().mean() for head in heads)
    assert bayes > logistic + 0.02 > 0.5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: class_moments(FEATURES, TARGET, 2),
            "class_moments: targets from 0 to 2 came for 2 classes; give 0 to 1.",
        ),
        (
            lambda: gaussian_nb_head(class_moments(FEATURES[:0], TARGET[:0], 2)),
            "gaussian_nb_head: the moments of no sample came; give those of training features.",
        ),
        (
            lambda: merged_moments(*(class_moments(FEATURES, TARGET, classes) for classes in (4, 3))),
            "merged_moments: moments of shapes [3, 4], [4, 4] came; give those of the same classes and features.",
        ),
    ],
    ids=["classes", "nothing", "shapes"],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError) as error:
        call()
    assert str(error.value) == message
