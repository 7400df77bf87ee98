"""Length-unbiased sequence policy optimisation, against its definition."""

import math

import pytest
import torch

from lightning_losses.losses import GSPO, LUSPO
from tests.losses.policy_gradient.batches import assert_equal, batch, by_completion, clipped, slopes


@pytest.mark.parametrize("seed", range(3))
def test_each_completion_counts_by_its_length(seed):
    values = batch(seed)

    def cost(ratios, advantage):
        return clipped(math.fsum(ratios) / len(ratios), advantage, 0.1, 0.15)

    assert_equal(LUSPO(epsilon_low=0.1, epsilon_high=0.15)(**values), by_completion(values, cost, "seq_sum"))


def test_on_its_own_samples_no_length_divides_a_tokens_gradient():
    values = batch()
    del values["old_logps"]
    expected = -values["advantages"].unsqueeze(1) * values["completion_mask"] / 6
    torch.testing.assert_close(slopes(LUSPO(), values), expected)


def test_with_equal_lengths_it_is_a_multiple_of_gspo():
    values = batch(lengths=(4,) * 6)
    options = {"epsilon_low": 0.1, "epsilon_high": 0.15}
    torch.testing.assert_close(LUSPO(**options)(**values), 4 * GSPO(**options)(**values))


def test_padding_changes_nothing_with_a_kl_either():
    values = {**batch(), "ref_logps": batch(3)["logps"]}
    wider = {
        name: torch.nn.functional.pad(tensor, (0, 3)) if tensor.ndim == 2 else tensor for name, tensor in values.items()
    }
    torch.testing.assert_close(LUSPO(beta=0.2)(**wider), LUSPO(beta=0.2)(**values))


def test_advantages_of_tokens_are_refused():
    with pytest.raises(ValueError, match=r"^luspo: advantages of shape \[6, 5\] came"):
        LUSPO()(**{**batch(), "advantages": torch.zeros(6, 5)})
