import itertools

import pytest
import torch

from lightning_losses.losses import MMD
from tests.losses.domains.batches import DOMAIN, FEATURES, ROWS, without


def kernel(a, b, gammas):
    return sum((-gamma * torch.cdist(a, b) ** 2).exp() for gamma in gammas)


@pytest.mark.parametrize("unbiased", [False, True])
def test_value_from_the_definition(unbiased):
    gammas, values = (0.3, 2.0), []
    for i, j in itertools.combinations(ROWS, 2):
        x, y = FEATURES[i], FEATURES[j]
        own = []
        for z in (x, y):
            inner = kernel(z, z, gammas)
            one = (inner.sum() - inner.trace()) / (len(z) * (len(z) - 1)) if unbiased else inner.mean()
            own.append(one)
        values.append(sum(own) - 2 * kernel(x, y, gammas).mean())
    torch.testing.assert_close(MMD(3, gammas, unbiased)(FEATURES, DOMAIN), torch.stack(values).mean())


def test_it_is_0_for_equal_samples_and_never_below():
    twice = torch.cat([FEATURES, FEATURES])
    assert MMD(2)(twice, torch.arange(22) // 11).abs() < 1e-12
    assert MMD(3)(FEATURES, DOMAIN) > 0
    # In single precision the distances of samples far from 0 would be wrong by 1, which a kernel of 1000 shows.
    far = (1e3 + torch.cat([FEATURES, FEATURES])).float()
    assert MMD(2, [1000.0])(far, torch.arange(22) // 11).abs() < 1e-4
    # So would those of many features.
    many = torch.randn(6, 512, generator=torch.Generator().manual_seed(0)).repeat(2, 1)
    assert MMD(2)(many, torch.arange(12) // 6).abs() < 1e-5


def test_a_translation_changes_nothing_and_a_domain_that_is_not_there_is_left_out():
    torch.testing.assert_close(MMD(3)(FEATURES + 5, DOMAIN), MMD(3)(FEATURES, DOMAIN))
    rows = without(2)
    torch.testing.assert_close(MMD(3)(FEATURES[rows], DOMAIN[rows]), MMD(2)(FEATURES[rows], DOMAIN[rows]))


def test_unbiased_a_domain_of_one_sample_is_left_out():
    rows = torch.cat([ROWS[0], ROWS[1], ROWS[2][:1]])
    value = MMD(3, unbiased=True)(FEATURES[rows], DOMAIN[rows])
    torch.testing.assert_close(value, MMD(2, unbiased=True)(FEATURES[rows[:-1]], DOMAIN[rows[:-1]]))


@pytest.mark.parametrize("gammas", [[], [1.0, 0.0], 1.0, "1"])
def test_kernels_that_are_none_are_refused(gammas):
    with pytest.raises(ValueError, match="^mmd: gammas="):
        MMD(2, gammas)
