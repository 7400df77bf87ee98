import math

import pytest
import torch

from lightning_losses.losses import SoftAvUC
from tests.losses.confidence.cases import confidences, sample


def test_a_hard_edge_is_counting():
    logits, target = sample(30)
    _, correct = confidences(logits, target)
    entropy = torch.distributions.Categorical(logits=logits).entropy()
    uncertain = entropy / math.log(5) > 0.4
    t = entropy.tanh()
    good = (1 - t)[(correct == 1) & ~uncertain].sum() + t[(correct == 0) & uncertain].sum()
    bad = t[(correct == 1) & uncertain].sum() + (1 - t)[(correct == 0) & ~uncertain].sum()
    # The entropy is that of probabilities mixed with 1e-5 of uniform ones.
    torch.testing.assert_close(
        SoftAvUC(threshold=0.4, temperature=1e-4)(logits, target), torch.log1p(bad / good), rtol=1e-3, atol=1e-4
    )


def test_it_falls_when_a_wrong_prediction_gets_less_certain():
    target = torch.tensor([0, 1])
    certain, narrow = (torch.tensor([[4.0, 0.0], [gap, 0.0]], dtype=torch.float64) for gap in (3.0, 0.3))
    assert SoftAvUC()(narrow, target) < SoftAvUC()(certain, target)


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_bad_threshold_is_refused(threshold):
    with pytest.raises(ValueError, match=f"soft_avuc: threshold={threshold}"):
        SoftAvUC(threshold=threshold)
