import math

import torch
import torch.nn.functional as F

from lightning_losses.losses import RCE, MAEReduced
from tests.losses.noisy_labels.cases import CLASSES, ROWS, over_all_labels, sample


def test_it_is_the_cross_entropy_of_the_prediction_to_the_label():
    logits, target, _ = sample()
    label = F.one_hot(target, CLASSES).double()
    expected = -(logits.softmax(-1) * label.log().clamp(min=-4.0)).sum(-1)
    torch.testing.assert_close(RCE(log_of_zero=-4.0, reduction="none")(logits, target), expected)


def test_by_default_it_is_mae_times_a_constant():
    logits, target, _ = sample()
    torch.testing.assert_close(RCE()(logits, target), -math.log(1e-4) * MAEReduced()(logits, target))


def test_it_is_symmetric():
    logits, *_ = sample()
    expected = torch.full((ROWS,), 4.0 * (CLASSES - 1), dtype=torch.float64)
    torch.testing.assert_close(over_all_labels(RCE(log_of_zero=-4.0, reduction="none"), logits), expected)
