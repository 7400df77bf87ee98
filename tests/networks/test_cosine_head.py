import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_losses.networks.conv1d import Conv1D
from lightning_losses.networks.cosine_head import CosineHead, with_cosine_head


def test_logits_are_cosines_whatever_the_lengths():
    head = CosineHead(4, 3).double()
    features = torch.randn(2, 5, 4, dtype=torch.float64)
    expected = F.cosine_similarity(features.unsqueeze(-2), head.weight, dim=-1)
    torch.testing.assert_close(head(1e3 * features), expected)
    assert head(torch.zeros(1, 4, dtype=torch.float64)).tolist() == [[0, 0, 0]]


def test_half_precision_is_widened():
    head, features = CosineHead(4, 3), torch.randn(2, 4)
    expected = head(features)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(head(features), expected)
    assert head.bfloat16()(features.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize(
    "network",
    [with_cosine_head(Conv1D(num_classes=7, width=2)), Conv1D(num_classes=7, width=2, cosine_head=True)],
    ids=["replaced", "made"],
)
def test_the_last_layer_makes_cosines(network):
    assert network(torch.randn(3, 1, 40)).abs().max() <= 1
    assert (network.head.in_features, network.head.num_classes) == (network.num_features, 7)


@pytest.mark.parametrize(
    ("network", "came"),
    [
        (nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)), "Sequential ends with a LayerNorm"),
        (nn.ReLU(), "ReLU ends with no layer with parameters"),
        (nn.Linear(2, 2), "Linear ends with a Linear"),
    ],
    ids=["norm", "none", "alone"],
)
def test_another_end_is_refused(network, came):
    with pytest.raises(ValueError) as raised:
        with_cosine_head(network)
    assert str(raised.value) == (
        f"with_cosine_head: {came}; give a network that ends with an nn.Linear, or put a CosineHead in its place."
    )
