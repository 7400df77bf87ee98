import torch

from lightning_losses.losses import RDrop

FIRST, SECOND = torch.randn(2, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_value_from_the_definition():
    p, q = FIRST.softmax(dim=-1), SECOND.softmax(dim=-1)
    expected = ((p - q) * (p.log() - q.log())).sum(dim=-1) / 2
    torch.testing.assert_close(RDrop(reduction="none")(FIRST, SECOND), expected)


def test_the_passes_may_change_places_and_equal_ones_cost_nothing():
    torch.testing.assert_close(RDrop()(FIRST, SECOND), RDrop()(SECOND, FIRST))
    assert RDrop()(FIRST, FIRST).item() == 0
