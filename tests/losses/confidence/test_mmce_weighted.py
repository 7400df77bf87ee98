import pytest
import torch

from lightning_losses.losses import MMCEWeighted
from tests.losses.confidence.cases import confidences, sample


def test_it_is_the_sum_of_its_blocks():
    logits, target = sample()
    c, a = confidences(logits, target)
    right, wrong = c[a == 1], c[a == 0]
    m, n = len(right), len(wrong)

    def block(x, y, u, v):
        return sum(u[i] * v[j] * torch.exp(-(x[i] - y[j]).abs() / 0.4) for i in range(len(x)) for j in range(len(y)))

    total = (
        block(right, right, 1 - right, 1 - right) / m**2
        + block(wrong, wrong, wrong, wrong) / n**2
        - 2 * block(right, wrong, 1 - right, wrong) / (m * n)
    )
    torch.testing.assert_close(MMCEWeighted()(logits, target), total.sqrt())


def test_repeating_the_wrong_predictions_changes_nothing():
    logits, target = sample()
    _, a = confidences(logits, target)
    wrong = a == 0
    repeated = torch.cat([logits, logits[wrong]]), torch.cat([target, target[wrong]])
    torch.testing.assert_close(MMCEWeighted()(*repeated), MMCEWeighted()(logits, target))


@pytest.mark.parametrize("kind", ["argmax", "argmin"])
def test_it_is_zero_where_all_are_right_or_all_wrong(kind):
    logits, _ = sample()
    assert MMCEWeighted()(logits, getattr(logits, kind)(-1)) == 0


def test_bad_bandwidth_is_refused():
    with pytest.raises(ValueError, match="mmce_weighted: bandwidth=0"):
        MMCEWeighted(bandwidth=0)
