import pytest
import torch

from lightning_losses.networks import SmallCNN, timm_network
from lightning_losses.teachers.feature_taps import FeatureTap, penultimate_stage


@pytest.mark.parametrize(("size", "channels"), [(28, 1), (8, 1), (9, 3)])
def test_logits_have_a_row_per_image(size, channels):
    network = SmallCNN(num_classes=7, in_chans=channels, width=4, depth=2)
    assert network(torch.randn(3, channels, size, size)).shape == (3, 7)


def test_stages_are_described_as_timm_does():
    network = SmallCNN(width=4)
    with FeatureTap(network, [info["module"] for info in network.feature_info]) as tap:
        network(torch.randn(2, 1, 32, 32))
    for info in network.feature_info:
        side = 32 // info["reduction"]
        assert tap.features[info["module"]].shape == (2, info["num_chs"], side, side)
    assert penultimate_stage(network) == "stages.1"


def test_a_samples_logits_depend_on_neither_its_batch_nor_the_mode():
    network = SmallCNN(width=8)
    images = torch.randn(5, 1, 28, 28)
    together = network.train()(images)
    alone = torch.cat([network.eval()(image.unsqueeze(0)) for image in images])
    # Float32 convolutions of other batch sizes round differently, in the last digits.
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_width_and_depth_count():
    def parameters(**options):
        return sum(parameter.numel() for parameter in SmallCNN(**options).parameters())

    assert parameters(width=8, depth=1) < 10_000 < 200_000 < parameters(width=32, depth=2)


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="small_cnn: width=0 came"):
        SmallCNN(width=0)


def test_timm_builds_reduced_networks_from_plain_lists():
    network = timm_network("resnet10t", num_classes=5, in_chans=1, channels=[8, 16, 16, 32])
    assert network(torch.randn(2, 1, 32, 32)).shape == (2, 5)
    with pytest.raises(ValueError, match="near it are .*resnet10t"):
        timm_network("resnet10", num_classes=5)


def test_batch_normalisation_in_place_of_group_normalisation():
    network = SmallCNN(width=4, depth=2, normalisation="batch")
    kinds = [type(layer).__name__ for layer in network.modules()]
    assert kinds.count("BatchNorm2d") == 6 and "GroupNorm" not in kinds
    with pytest.raises(ValueError, match="small_cnn: normalisation='layer' came"):
        SmallCNN(normalisation="layer")
