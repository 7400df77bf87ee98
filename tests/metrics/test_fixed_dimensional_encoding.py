import pytest
import torch
import torch.nn.functional as F

from lightning_losses.metrics.fixed_dimensional_encoding import FixedDimensionalEncoding
from lightning_losses.numerics.maxsim import maxsim

GENERATOR = torch.Generator().manual_seed(0)
QUERIES = F.normalize(torch.randn(8, 4, 8, generator=GENERATOR), dim=-1)
DOCUMENTS = F.normalize(torch.randn(20, 6, 8, generator=GENERATOR), dim=-1)


def products(queries=QUERIES, documents=DOCUMENTS, mask=None, **options):
    encoding = FixedDimensionalEncoding(8, **options)
    assert encoding.queries(queries).shape[1] == encoding.width
    return encoding.queries(queries) @ encoding.documents(documents, mask).mT / encoding.repetitions


def test_without_planes_it_is_the_sum_times_the_mean():
    expected = QUERIES.sum(dim=1) @ DOCUMENTS.mean(dim=1).mT
    torch.testing.assert_close(products(repetitions=1, planes=0), expected)


def test_sets_of_one_vector_are_exact_since_empty_cells_are_filled():
    torch.testing.assert_close(products(documents=DOCUMENTS[:, :1]), maxsim(QUERIES, DOCUMENTS[:, :1]))


def test_it_comes_nearer_with_planes_and_with_repetitions():
    def correlation(**options):
        return torch.corrcoef(torch.stack([products(**options).flatten(), maxsim(QUERIES, DOCUMENTS).flatten()]))[0, 1]

    assert correlation(repetitions=2, planes=4) < 0.8 < 0.9 < correlation(repetitions=40, planes=4)
    errors = [(products(planes=s) - maxsim(QUERIES, DOCUMENTS)).abs().mean() for s in (0, 1, 3, 6)]
    assert errors == sorted(errors, reverse=True)


def test_padding_counts_nothing_and_the_seed_decides():
    mask = torch.arange(6) < 3
    padded = DOCUMENTS.masked_fill(~mask.unsqueeze(-1), torch.nan)
    torch.testing.assert_close(
        products(documents=padded, mask=mask.expand(20, 6)), products(documents=DOCUMENTS[:, :3])
    )
    assert torch.equal(products(seed=3), products(seed=3))
    assert not torch.equal(products(seed=3), products(seed=4))
    assert not FixedDimensionalEncoding(8).documents(DOCUMENTS, torch.zeros(20, 6)).any()


def test_projection_and_sketch_keep_the_products_on_average():
    close = torch.stack([products(repetitions=1, planes=1, final=64, seed=seed) for seed in range(60)]).mean(dim=0)
    whole = torch.stack([products(repetitions=1, planes=1, seed=seed) for seed in range(60)]).mean(dim=0)
    assert (close - whole).abs().mean() < 0.25 * whole.std()
    assert FixedDimensionalEncoding(8, repetitions=3, planes=2, projection=5).width == 3 * 4 * 5
    assert products(projection=5).shape == (8, 20)


def test_half_a_plane_is_refused():
    with pytest.raises(ValueError, match="^fixed_dimensional_encoding: planes=2.5 came; give a whole number"):
        FixedDimensionalEncoding(4, planes=2.5)


def test_another_width_is_refused():
    with pytest.raises(
        ValueError, match="^fixed_dimensional_encoding: tokens of 8 dimensions came for an encoding of 4;"
    ):
        FixedDimensionalEncoding(4).queries(QUERIES)
