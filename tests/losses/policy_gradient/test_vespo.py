"""Variational sequence-level soft policy optimisation, against its definition."""

import math

import pytest
import torch

from lightning_losses.losses import VESPO, PPOClip
from tests.losses.policy_gradient.batches import assert_equal, averaged, batch, slopes


def weights_of(values, more=None):
    """The weight of each completion."""
    weights = []
    for row, advantage in enumerate(values["advantages"].tolist()):
        kept = values["completion_mask"][row]
        log_w = (values["logps"][row] - values["old_logps"][row])[kept].sum().item()
        log_w += 0 if more is None else more[row][kept].log().sum().item()
        k, lam = (2.0, 3.0) if advantage >= 0 else (3.0, 2.0)
        weights.append(math.exp(log_w) ** k * math.exp(lam * (1 - math.exp(log_w))))
    return weights


@pytest.mark.parametrize("sampled", [False, True])
def test_it_is_reinforce_with_a_weight_of_the_completions_ratio(sampled):
    values = batch(drift=0.3)
    ratio = batch(9)["old_logps"].abs() if sampled else None
    weights = weights_of(values, ratio)
    given = values if ratio is None else {**values, "sampling_ratio": ratio}
    rows = [
        [-weight * advantage * p for p in values["logps"][row][values["completion_mask"][row]].tolist()]
        for row, (weight, advantage) in enumerate(zip(weights, values["advantages"].tolist(), strict=True))
    ]
    assert_equal(VESPO()(**given), averaged(rows, "token_mean"))
    expected = torch.tensor(weights, dtype=torch.float64) * -values["advantages"]
    expected = expected.unsqueeze(1) * values["completion_mask"] / values["completion_mask"].sum()
    torch.testing.assert_close(slopes(VESPO(), given), expected)


def test_on_its_own_samples_its_gradient_is_ppos():
    values = batch()
    del values["old_logps"]
    torch.testing.assert_close(slopes(VESPO(), values), slopes(PPOClip(), values))


def test_the_weight_is_largest_at_k_over_lambda_and_0_far_away():
    log_w = torch.linspace(-19, 19, 3801, dtype=torch.float64).unsqueeze(1)
    values = {"logps": log_w, "old_logps": torch.zeros_like(log_w), "advantages": torch.ones(3801).double()}
    weight = -slopes(VESPO(2.0, 3.0), values) * 3801
    assert abs(log_w[weight.argmax()].item() - math.log(2 / 3)) <= 0.01
    assert weight[0] < 1e-13 and weight[-1] == 0
