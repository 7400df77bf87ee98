import pytest
import torch

from lightning_losses.diagnostics.intrinsic_dimension import intrinsic_dimension, nearest_distances
from lightning_losses.metrics import embedding_rows

GENERATOR = torch.Generator().manual_seed(0)
POINTS = torch.randn(40, 3, dtype=torch.float64, generator=GENERATOR)


@pytest.mark.parametrize("block", [1 << 22, 250], ids=["one block", "many"])
def test_both_estimates_are_the_definitions_and_duplicates_do_not_count(monkeypatch, block):
    monkeypatch.setattr(embedding_rows, "_BLOCK", block)
    distances = torch.cdist(POINTS, POINTS).sort(dim=1).values[:, 1:]
    torch.testing.assert_close(nearest_distances(POINTS, 4), distances[:, :4])
    two_nn = 40 / (distances[:, 1] / distances[:, 0]).log().sum()
    each = 1 / (distances[:, 4:5] / distances[:, :4]).log().mean(dim=1)
    # Digits that a common offset costs are few.
    given = torch.cat([POINTS, POINTS[3:9]]) + 1e4
    torch.testing.assert_close(intrinsic_dimension(given), two_nn, rtol=1e-6, atol=0)
    mle = intrinsic_dimension(given, estimator="mle", neighbours=5)
    torch.testing.assert_close(mle, 1 / (1 / each).mean(), rtol=1e-6, atol=0)


def test_it_is_the_dimension_of_the_data_not_of_the_space():
    rows = torch.randn(1500, 5, generator=GENERATOR) @ torch.randn(5, 50, generator=GENERATOR)
    assert intrinsic_dimension(rows).item() == pytest.approx(5, abs=0.4)
    assert intrinsic_dimension(rows, estimator="mle").item() == pytest.approx(5, abs=0.4)
    assert intrinsic_dimension(rows.index_fill(0, torch.tensor([3]), torch.nan)).isnan()


def test_too_few_distinct_points_are_refused():
    with pytest.raises(ValueError) as error:
        intrinsic_dimension(torch.ones(9, 2))
    assert str(error.value) == "intrinsic_dimension: 1 distinct points came for 2 neighbours of each; give more points."


def test_differences_below_the_rounding_of_the_middle_count():
    # Three ratios of neighbours, 1e20 twice and 2.
    points = torch.tensor([[0.0], [1e-20], [1.0], [2.0]], dtype=torch.float64)
    wanted = 4 / torch.tensor([1e20, 1e20, 1.0, 2.0], dtype=torch.float64).log().sum()
    torch.testing.assert_close(intrinsic_dimension(points), wanted)
