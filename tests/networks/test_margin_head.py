import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_losses.losses import EBV
from lightning_losses.modules import Classifier
from lightning_losses.networks.conv1d import Conv1D
from lightning_losses.networks.margin_head import MarginHead, with_margin_head
from lightning_losses.objective import Objective


def test_logits_are_cosines_whatever_the_lengths():
    head = MarginHead(4, 3).double()
    features = torch.randn(2, 5, 4, dtype=torch.float64)
    expected = F.cosine_similarity(features.unsqueeze(-2), head.weight, dim=-1)
    torch.testing.assert_close(head(1e3 * features), expected)
    nothing = torch.zeros(1, 4, dtype=torch.float64, requires_grad=True)
    cosines = head(nothing)
    assert cosines.tolist() == [[0, 0, 0]] and not torch.autograd.grad(cosines.sum(), nothing)[0].any()


@pytest.mark.parametrize("fixed", [False, True])
def test_a_head_is_where_and_in_the_precision_of_the_layer_that_it_replaces(fixed):
    for layer in (nn.Linear(3, 4, dtype=torch.float64), nn.Linear(3, 4, device="meta")):
        head = with_margin_head(nn.Sequential(nn.ReLU(), layer), embedding_dim=5, fixed=fixed)[1]
        for tensor in (head.weight, head.embedding.weight):
            assert (tensor.device, tensor.dtype) == (layer.weight.device, layer.weight.dtype)


def test_half_precision_is_widened():
    head, features = MarginHead(4, 3), torch.randn(2, 4)
    expected = head(features)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(head(features), expected)
    assert head.bfloat16()(features.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize(
    "network",
    [with_margin_head(Conv1D(num_classes=7, width=2)), Conv1D(num_classes=7, width=2, cosine_head=True)],
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
        with_margin_head(network)
    assert str(raised.value) == (
        f"with_margin_head: {came}; give a network that ends with an nn.Linear, or put a MarginHead in its place."
    )


def test_the_nearest_sub_center_of_a_class_counts_and_alone_learns():
    head = MarginHead(4, 3, sub_centers=2).double()
    features = torch.randn(1, 4, dtype=torch.float64)
    every = F.cosine_similarity(features.unsqueeze(1), head.weight, dim=-1).view(3, 2)
    cosines = head(features)
    torch.testing.assert_close(cosines, every.amax(dim=1).unsqueeze(0))
    cosines[0, 1].backward()
    assert head.weight.grad.any(dim=1).tolist() == [i == 2 + int(every[1].argmax()) for i in range(6)]


def test_a_layer_before_the_class_vectors_and_fixed_ones():
    head = MarginHead(4, 3, embedding_dim=5, fixed=True)
    assert head(torch.randn(2, 4)).shape == (2, 3)
    assert [name for name, _ in head.named_parameters()] == ["embedding.weight", "embedding.bias"]
    assert torch.equal(MarginHead(4, 3, embedding_dim=5, fixed=True).weight, head.weight)
    with pytest.raises(ValueError) as raised:
        MarginHead(4, 3, sub_centers=2, fixed=True)
    assert str(raised.value) == (
        "margin_head: sub_centers=2 came with fixed=True; sub-centres are learned, so give one of them."
    )


def test_equiangular_vectors_are_asked_of_a_head_that_trains_others():
    def classifier(**options):
        return Classifier(with_margin_head(nn.Sequential(nn.Linear(4, 3)), **options), Objective({"ebv": EBV()}), 3)

    classifier(fixed=True)
    with pytest.raises(ValueError) as refusal:
        classifier()
    assert str(refusal.value) == (
        "Classifier: term 'ebv' (EBV) came with a MarginHead whose class vectors are trained, and it expects fixed "
        "ones; give the head fixed=True (model.fixed=true), or take NormalizedSoftmax."
    )
