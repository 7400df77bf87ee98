import math

import pytest
import torch

from lightning_losses.losses import NodeCompactness


def test_it_is_the_logistic_loss_of_the_scores():
    scores = torch.tensor([-2.0, 0.0, 3.5], dtype=torch.float64)
    expected = sum(-math.log(1 / (1 + math.exp(-score))) for score in scores.tolist()) / 3
    assert NodeCompactness()(scores).item() == pytest.approx(expected)
    assert NodeCompactness()(scores + 1) < NodeCompactness()(scores)


def test_another_shape_is_refused():
    with pytest.raises(ValueError) as error:
        NodeCompactness()(torch.zeros(3, 1))
    assert str(error.value) == "node_compactness: compactness of shape [3, 1] came; give a number a node."
