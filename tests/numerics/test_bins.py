import pytest
import torch

from lightning_losses.numerics.bins import width_bins, width_edges

PRECISIONS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("num_bins", [1, 2, 3, 10, 15, 100])
def test_a_confidence_on_an_edge_is_in_the_bin_that_the_edge_closes(num_bins, dtype):
    edges = torch.tensor([number / num_bins for number in range(1, num_bins)], dtype=dtype)
    assert torch.equal(width_edges(num_bins, dtype), edges)
    assert width_bins(edges, num_bins).tolist() == list(range(num_bins - 1))
    above = torch.nextafter(edges, torch.ones_like(edges))
    assert width_bins(above, num_bins).tolist() == list(range(1, num_bins))


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_the_ends_are_in_the_first_and_the_last_bin_and_the_shape_stays(dtype):
    confidence = torch.tensor([[0.0, 1.0], [0.5, 0.25]], dtype=dtype)
    assert width_bins(confidence, 4).tolist() == [[0, 3], [1, 0]]
    assert width_bins(confidence.T, 4).tolist() == [[0, 1], [3, 0]]
