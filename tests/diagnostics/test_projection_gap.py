import pytest
import torch

from lightning_losses.diagnostics.projection_gap import feature_rank, projection_gap

GENERATOR = torch.Generator().manual_seed(0)


@pytest.mark.parametrize("rows", [30, 4], ids=["covariance", "kernel"])
def test_the_rank_is_the_exponential_of_the_entropy_of_principal_variances(rows):
    features = torch.randn(rows, 6, dtype=torch.float64, generator=GENERATOR) * torch.arange(1, 7)
    variances = torch.linalg.svdvals(features - features.mean(dim=0)).square()
    share = (variances / variances.sum()).clamp(min=1e-300)
    torch.testing.assert_close(feature_rank(features + 5), (-(share * share.log()).sum()).exp())


def test_a_projection_to_fewer_directions_has_a_gap_and_a_rotation_none():
    features = torch.randn(50, 6, dtype=torch.float64, generator=GENERATOR)
    turned = 3 * features @ torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64, generator=GENERATOR)).Q
    assert projection_gap(features, turned).gap.item() == pytest.approx(0, abs=1e-9)
    fewer = projection_gap(features, features[:, :2])
    assert fewer.before > 5 and fewer.after < 2.01 and fewer.gap == fewer.before - fewer.after
    assert feature_rank(torch.ones(3, 2)) == 0
    # Their mean is none of them, by its rounding.
    assert feature_rank(torch.full((1000, 2), 0.1, dtype=torch.float64)) == 0


def test_features_of_other_samples_are_refused():
    with pytest.raises(ValueError) as error:
        projection_gap(torch.ones(3, 2), torch.ones(4, 2))
    assert str(error.value) == "projection_gap: features of 3 and 4 samples came; give the same samples twice."
