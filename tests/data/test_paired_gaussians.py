import pytest
import torch

from lightning_losses.data.paired_gaussians import PairedGaussians


def ready(**options):
    data = PairedGaussians(**options)
    data.setup()
    return data


def nearest(data):
    """The class of the nearest mean of the training samples, and the test labels."""
    means = torch.stack([data.train.inputs[data.train.target == c].mean(0).flatten() for c in range(10)])
    return torch.cdist(data.test.inputs.flatten(1), means).argmin(-1), data.test.target


def test_without_overlap_the_classes_are_told_apart():
    predicted, target = nearest(ready(overlap=0.0, samples=2000))
    assert (predicted == target).float().mean() > 0.99


def test_in_shared_clusters_the_pair_is_known_and_the_class_a_coin():
    predicted, target = nearest(ready(overlap=1.0, samples=4000))
    assert (predicted // 2 == target // 2).float().mean() > 0.99
    # 1200 coins: three standard deviations.
    assert abs((predicted == target).float().mean() - 0.5) < 0.045


def test_the_seed_draws_the_data():
    assert ready(seed=1).fingerprint() == ready(seed=1).fingerprint() != ready(seed=2).fingerprint()


@pytest.mark.parametrize(("name", "value"), [("overlap", 1.5), ("overlap", -0.1), ("distance", 0.0), ("samples", 20)])
def test_options_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=f"paired_gaussians: .*{name}"):
        PairedGaussians(**{name: value})
