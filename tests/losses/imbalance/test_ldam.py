import math
import warnings

import pytest
import torch
import torch.nn.functional as F

from lightning_losses.losses import LDAM
from lightning_losses.losses.imbalance.class_balanced import effective_number_weights

COUNTS = torch.tensor([81.0, 16.0, 1.0], dtype=torch.float64)
LOGITS = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).tanh()
TARGET = torch.tensor([0, 2, 1, 0, 2, 1])


def test_value_from_the_definition():
    total = 0.0
    for row, label in zip(LOGITS.tolist(), TARGET.tolist(), strict=True):
        scores = [4 * (z - (0.3 / (1, 1, 1)[label] * float(COUNTS[label]) ** -0.25) * (k == label))
                  for k, z in enumerate(row)]  # fmt: skip
        total += math.log(sum(map(math.exp, scores))) - scores[label]
    loss = LDAM(COUNTS, max_margin=0.3, scale=4.0)
    assert loss(LOGITS, TARGET).item() == pytest.approx(total / 6, rel=1e-12)


def test_the_rarest_class_has_the_whole_margin():
    torch.testing.assert_close(LDAM(COUNTS).margins(3), torch.tensor([1 / 6, 0.25, 0.5], dtype=torch.float64))


def test_no_margin_is_scaled_cross_entropy_and_a_larger_one_costs_more():
    values = [LDAM(COUNTS, margin, 4.0)(LOGITS, TARGET) for margin in (0.0, 0.2, 0.5)]
    torch.testing.assert_close(values[0], F.cross_entropy(4 * LOGITS, TARGET))
    assert values[0] < values[1] < values[2]


def test_beta_weighs_the_mean_unless_the_weights_wait():
    rows = LDAM(COUNTS, reduction="none")(LOGITS, TARGET)
    weight = effective_number_weights(COUNTS, 0.9)[TARGET]
    loss = LDAM(COUNTS, beta=0.9)
    torch.testing.assert_close(loss(LOGITS, TARGET), (weight * rows).sum() / weight.sum())
    loss.reweights = False
    torch.testing.assert_close(loss(LOGITS, TARGET), rows.mean())


def test_logits_that_are_no_cosines_are_warned_of_once():
    loss = LDAM(COUNTS)
    masked = LOGITS.clone()
    masked[:, 0] = -torch.inf
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        loss(masked, TARGET.clamp(min=1))
        loss(LOGITS.bfloat16(), TARGET)
        assert not told
        for _ in range(2):
            loss(LOGITS.sign() * 3, TARGET)
    assert [str(each.message) for each in told] == [
        "ldam: logits above 1 in size came, which are no cosines; give the network a MarginHead, on whose logits the "
        "margins are made to act."
    ]
