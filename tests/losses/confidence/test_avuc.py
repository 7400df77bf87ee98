import pytest
import torch

from lightning_losses.losses import AvUC
from tests.losses.confidence.cases import confidences, sample


def share(logits, target, threshold):
    confidence, correct = confidences(logits, target)
    entropy = torch.distributions.Categorical(logits=logits).entropy()
    certain = entropy <= threshold
    t = entropy.tanh()
    ac = (confidence * (1 - t))[(correct == 1) & certain].sum()
    au = (confidence * t)[(correct == 1) & ~certain].sum()
    ic = ((1 - confidence) * (1 - t))[(correct == 0) & certain].sum()
    iu = ((1 - confidence) * t)[(correct == 0) & ~certain].sum()
    return (ac + iu) / (ac + au + ic + iu)


@pytest.mark.parametrize("threshold", [0.1, 0.5, 1.0, 1.6])
def test_it_is_the_share_of_the_four_kinds(threshold):
    logits, target = sample(30)
    # The code's two constants of 1e-10 are what differs.
    torch.testing.assert_close(
        AvUC(threshold=threshold)(logits, target), -share(logits, target, threshold).log(), rtol=1e-8, atol=1e-9
    )


def test_without_a_threshold_it_is_the_area_under_all():
    logits, target = sample(30)
    entropy = torch.distributions.Categorical(logits=logits).entropy()
    # The entropies here are torch's: a hair below the largest one must not make it uncertain at the last threshold.
    thresholds = torch.lerp(entropy.min(), entropy.max(), torch.linspace(0, 1, 21, dtype=torch.float64)) + 1e-12
    area = torch.trapezoid(torch.stack([share(logits, target, t) for t in thresholds]), dx=0.05)
    torch.testing.assert_close(AvUC()(logits, target), -area.log(), rtol=1e-8, atol=1e-9)


def test_ideal_predictions_cost_nothing():
    logits = torch.tensor([[20.0, 0.0, 0.0], [0.2, 0.1, 0.0]], dtype=torch.float64)
    assert AvUC(threshold=0.5)(logits, torch.tensor([0, 2])) < 1e-8
    assert AvUC(threshold=0.5)(logits, torch.tensor([0, 0])) > 0.1


def test_bad_threshold_is_refused():
    with pytest.raises(ValueError, match="avuc: threshold=-1"):
        AvUC(threshold=-1)
