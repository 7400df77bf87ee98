from collections import Counter
from itertools import islice

import pytest
import torch

from lightning_losses.samplers import DomainSampler, initial_domain_weights, updated_domain_weights


def test_weights_are_a_distribution_that_follows_the_lag():
    student, teacher = torch.tensor([3.0, 2.0, 1.0]), torch.ones(3)
    weights = initial_domain_weights(student, teacher)
    for _ in range(5):
        assert weights.sum().item() == pytest.approx(1, abs=1e-6)
        assert weights.tolist() == sorted(weights.tolist(), reverse=True)
        weights = updated_domain_weights(weights, student, teacher, alpha=0.5)
        assert weights.min() >= 0.5 / 3 - 1e-6


def test_alpha_is_the_share_of_the_new_weights():
    weights = updated_domain_weights(torch.tensor([0.5, 0.5]), torch.tensor([9.0, 1.0]), torch.ones(2), alpha=0.2)
    # The new weights, 1 and 0, a fifth; the uniform ones, four.
    torch.testing.assert_close(weights, torch.tensor([0.2 + 0.4, 0.4]))


def test_equal_lags_keep_equal_weights():
    even = torch.full((4,), 0.25)
    torch.testing.assert_close(updated_domain_weights(even, torch.ones(4), torch.ones(4) / 2), even)


def test_huge_lags_do_not_overflow():
    weights = updated_domain_weights(torch.tensor([0.5, 0.5]), torch.tensor([9.0, 1.0]), torch.tensor([1.0, 1.0]))
    torch.testing.assert_close(weights, torch.tensor([0.75, 0.25]))


def test_draws_follow_the_weights():
    sampler = DomainSampler([0] * 10 + [1] * 30, num_samples=4000)
    sampler.set_weights(torch.tensor([0.8, 0.2]))
    counts = Counter(index >= 10 for index in sampler)
    # Four standard deviations of a binomial count.
    assert abs(counts[False] - 3200) < 4 * (4000 * 0.8 * 0.2) ** 0.5


def test_a_domain_is_used_up_before_it_repeats():
    sampler = DomainSampler([0, 1, 0, 1, 0], num_samples=30)
    sampler.set_weights(torch.tensor([1.0, 0.0]))
    drawn = list(sampler)
    assert all(sorted(drawn[start : start + 3]) == [0, 2, 4] for start in range(0, 30, 3))


def test_weights_may_change_within_an_epoch():
    sampler = DomainSampler([0, 1], num_samples=20)
    sampler.set_weights(torch.tensor([1.0, 0.0]))
    draws = iter(sampler)
    assert set(islice(draws, 10)) == {0}
    sampler.set_weights(torch.tensor([0.0, 1.0]))
    assert set(draws) == {1}


def test_the_seed_and_the_epoch_decide():
    first, second = DomainSampler([0, 1] * 10, seed=1), DomainSampler([0, 1] * 10, seed=1)
    assert list(first) == list(second) and len(first) == 20
    second.set_epoch(1)
    assert list(first) != list(second)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"^ddk_sampler: domains \[1\] have no samples"):
        DomainSampler([0, 2])
    with pytest.raises(ValueError, match="^ddk_sampler: weights"):
        DomainSampler([0, 1]).set_weights(torch.tensor([0.5, 0.6]))
    with pytest.raises(ValueError, match=r"^ddk_sampler: student_ce of shape \[2\].*\[3\]"):
        initial_domain_weights(torch.ones(2), torch.ones(3))
    with pytest.raises(ValueError, match="^ddk_sampler: alpha=2"):
        updated_domain_weights(torch.ones(2) / 2, torch.ones(2), torch.ones(2), alpha=2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened(dtype):
    student, teacher = torch.tensor([200.0, 12.0, 1.0]), torch.ones(3)
    even = torch.full((3,), 1 / 3)
    weights = updated_domain_weights(even, student.to(dtype), teacher.to(dtype))
    torch.testing.assert_close(weights, updated_domain_weights(even, student, teacher))
