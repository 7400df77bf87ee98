import pytest
import torch

from lightning_losses.diagnostics.sparse_codes import explained_variance, latent_frequencies


def test_the_mean_explains_nothing_and_the_features_everything():
    x = torch.randn(9, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert explained_variance(x, x) == 1
    assert explained_variance(x + 100, (x + 100).mean(dim=0).expand_as(x)).item() == pytest.approx(0, abs=1e-9)
    half = x - 0.5 * (x - x.mean(dim=0))
    assert explained_variance(x, half).item() == pytest.approx(0.75)
    for equal in (torch.ones(3, 2), torch.full((1000, 2), 0.1, dtype=torch.float64)):
        assert explained_variance(equal, 2 * equal).isnan()


def test_frequencies_are_ranked():
    codes = torch.tensor([[0.0, 2.0, 0.0, 1.0], [0.0, 1.0, 3.0, 0.0]])
    assert latent_frequencies(codes).tolist() == [1.0, 0.5, 0.5, 0.0]


def test_other_shapes_are_refused():
    with pytest.raises(ValueError) as error:
        explained_variance(torch.ones(3, 2), torch.ones(3, 1))
    told = "features of shape [3, 2] came with a reconstruction of shape [3, 1]; give the same shape twice."
    assert str(error.value) == f"explained_variance: {told}"
