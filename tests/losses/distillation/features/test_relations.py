"""What losses of the relations among a batch's features have in common."""

import pytest
import torch

from lightning_losses.losses import CKA, RKD, SimilarityPreserving
from tests.losses.strategies import gradient


@pytest.mark.parametrize("loss", [CKA, RKD, SimilarityPreserving])
@pytest.mark.parametrize("scale", [1e-30, 1e-9, 1e9, 1e30])
def test_features_of_any_scale_have_the_same_value_and_slope(loss, scale):
    features, teacher = torch.randn(6, 4), torch.randn(6, 3)
    torch.testing.assert_close(loss()(scale * features, teacher / scale), loss()(features, teacher))
    small = gradient(loss(), scale * features, teacher)
    torch.testing.assert_close(scale * small, gradient(loss(), features, teacher))
