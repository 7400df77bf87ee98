import pytest
import torch

from lightning_losses.transport import l1_distances, pairwise


@pytest.mark.parametrize("chunk", [1, 12, 1 << 22])
@pytest.mark.parametrize("function", [l1_distances, pairwise._L1Distances.apply], ids=["chosen", "chunked"])
def test_value_and_gradients_are_those_of_the_definition(function, chunk, monkeypatch):
    monkeypatch.setattr(pairwise, "_CHUNK", chunk)
    x, y = torch.randn(5, 3, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    x[1], y[2, 0] = y[0], x[2, 0]  # equal rows, and an equal entry: subgradient 0
    weight = torch.randn(5, 4, dtype=torch.float64)
    leaves = x.requires_grad_(), y.requires_grad_()
    plain = (x[:, None] - y[None]).abs().sum(dim=-1)
    torch.testing.assert_close(function(x, y), plain)
    torch.testing.assert_close(
        torch.autograd.grad((function(x, y) * weight).sum(), leaves),
        torch.autograd.grad((plain * weight).sum(), leaves),
    )


@pytest.mark.parametrize("function", [l1_distances, pairwise._L1Distances.apply], ids=["chosen", "chunked"])
def test_one_side_may_be_constant(function):
    x, y = torch.randn(5, 3, requires_grad=True), torch.randn(4, 3)
    function(x, y).sum().backward()
    torch.testing.assert_close(x.grad, (x.detach()[:, None] - y).sign().sum(dim=1))


@pytest.mark.parametrize("function", [l1_distances, pairwise._L1Distances.apply], ids=["chosen", "chunked"])
def test_no_rows(function):
    x = torch.zeros(0, 3, requires_grad=True)
    function(x, torch.zeros(2, 3)).sum().backward()
    assert x.grad.shape == (0, 3)
