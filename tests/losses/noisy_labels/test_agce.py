import pytest
import torch

from lightning_losses.losses import AGCE, AUL, GCE, MAEReduced
from tests.losses.noisy_labels.cases import sample


@pytest.mark.parametrize(("a", "q"), [(0.6, 0.5), (1.0, 2.0), (100.0, 10.0)])
def test_value_from_the_definition(a, q):
    logits, target, p = sample()
    torch.testing.assert_close(AGCE(a=a, q=q, reduction="none")(logits, target), ((a + 1) ** q - (a + p) ** q) / q)


def test_its_limits_are_gce_and_mae():
    logits, target, _ = sample()
    torch.testing.assert_close(AGCE(a=1e-12, q=0.7)(logits, target), GCE(q=0.7)(logits, target))
    torch.testing.assert_close(AGCE(a=3.0, q=1.0)(logits, target), MAEReduced()(logits, target))


def test_of_samples_with_six_of_ten_labels_right_the_best_prediction_is_certain():
    """That of cross-entropy is 0.6."""
    p = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)

    def best(of_cross_entropy):
        return p[(0.6 * of_cross_entropy(-p.log()) + 0.4 * of_cross_entropy(-(1 - p).log())).argmin()].item()

    assert best(AGCE(a=1.0, q=2.0).of_cross_entropy) == best(AUL(a=1.5, q=0.9).of_cross_entropy) == 0.99
    assert best(lambda cross_entropy: cross_entropy) == pytest.approx(0.6)
