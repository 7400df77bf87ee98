import itertools
import re

import pytest
import torch

from lightning_losses.losses import CORAL, MMD, Fishr
from tests.losses.domains.batches import DOMAIN, FEATURES, ROWS, without


def mean_of_pairs(rows, weight=1.0):
    values = []
    for i, j in itertools.combinations(rows, 2):
        means = (FEATURES[i].mean(dim=0) - FEATURES[j].mean(dim=0)).square().mean()
        values.append(means + weight * (FEATURES[i].mT.cov() - FEATURES[j].mT.cov()).square().mean())
    return torch.stack(values).mean()


def test_value_from_the_definition():
    torch.testing.assert_close(CORAL(3)(FEATURES, DOMAIN), mean_of_pairs(ROWS))
    torch.testing.assert_close(CORAL(3, covariance_weight=0.3)(FEATURES, DOMAIN), mean_of_pairs(ROWS, 0.3))
    rows = without(0)
    torch.testing.assert_close(CORAL(3)(FEATURES[rows], DOMAIN[rows]), mean_of_pairs(ROWS[1:]))


def test_a_translation_changes_the_means_alone_and_a_common_rotation_nothing():
    moved = FEATURES + torch.where(DOMAIN == 1, 3.0, 0.0).unsqueeze(1)
    without_means = CORAL(3, mean_term=False)
    torch.testing.assert_close(without_means(moved, DOMAIN), without_means(FEATURES, DOMAIN))
    assert CORAL(3)(moved, DOMAIN) > CORAL(3)(FEATURES, DOMAIN) + 1
    rotation = torch.linalg.qr(FEATURES[:3]).Q
    torch.testing.assert_close(CORAL(3)(FEATURES @ rotation, DOMAIN), CORAL(3)(FEATURES, DOMAIN))


def test_a_domain_of_one_sample_has_a_mean_and_no_covariance():
    rows = torch.cat([ROWS[0], ROWS[1], ROWS[2][:1]])
    value = CORAL(3, mean_term=False)(FEATURES[rows], DOMAIN[rows])
    torch.testing.assert_close(value, CORAL(2, mean_term=False)(FEATURES[rows[:-1]], DOMAIN[rows[:-1]]))
    means = torch.stack([FEATURES[ROWS[0]].mean(dim=0), FEATURES[ROWS[1]].mean(dim=0), FEATURES[rows[-1]]])
    expected = torch.pdist(means).square().mean() / 3
    torch.testing.assert_close(CORAL(3)(FEATURES[rows], DOMAIN[rows]) - value, expected)


@pytest.mark.parametrize("make", [CORAL, MMD, lambda count: Fishr(count, num_classes=4, feature_dim=3)])
def test_large_features_are_finite_or_refused(make):
    loss, outcomes = make(3), {}
    given = {"logits": torch.randn(len(DOMAIN), 4), "target": DOMAIN} if isinstance(loss, Fishr) else {}
    signs = FEATURES.sign().float()
    for size in (1e3, 5e7, 1e12, 1e30, 3e38):
        leaf = (size * signs).requires_grad_()
        try:
            value = loss(features=leaf, domain=DOMAIN, **given)
        except ValueError as error:
            outcomes[size] = str(error)
            continue
        assert value.isfinite() and torch.autograd.grad(value, leaf)[0].isfinite().all()
    # MMD's kernels are 0 of large distances.
    assert list(outcomes) == ([] if isinstance(loss, MMD) else [1e12, 1e30, 3e38])
    for told in outcomes.values():
        assert re.fullmatch(r"\w+: features holds \S+; give numbers up to \S+ in size, whose fourth .* can hold.", told)
