import math

import pytest
import torch

from lightning_losses.metrics import embedding_rows
from lightning_losses.metrics.alignment_uniformity import alignment, tolerance, uniformity
from tests.graphs import assert_one_graph

GENERATOR = torch.Generator().manual_seed(0)
X, Y = torch.randn(2, 7, 3, dtype=torch.float64, generator=GENERATOR)
TARGET = torch.tensor([0, 2, 2, 1, 0, 2, 4])


def unit(rows):
    return rows / rows.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("block", [1 << 22, 14], ids=["one block", "rows two by two"])
def test_values_and_gradients_are_the_definitions_in_blocks_of_any_size(monkeypatch, block):
    monkeypatch.setattr(embedding_rows, "_BLOCK", block)
    x, y = X.clone().requires_grad_(), Y.clone().requires_grad_()
    pairs = torch.pdist(unit(x)).square().mul(-3.0).exp().mean().log()
    views = (unit(x) - unit(y)).norm(dim=1).pow(1.5).mean()
    for value, wanted in ((uniformity(x, t=3.0), pairs), (alignment(x, y, power=1.5), views)):
        torch.testing.assert_close(value, wanted)
        slopes, others = (torch.autograd.grad(v, [x, y], allow_unused=True) for v in (value, wanted))
        torch.testing.assert_close(slopes, others)


def test_limits():
    assert alignment(X, 5 * X, power=1.0).item() == pytest.approx(0, abs=1e-12)
    assert alignment(X, -X).item() == pytest.approx(4)
    assert uniformity(torch.ones(4, 3)).item() == pytest.approx(0, abs=1e-6)
    # Spread over the whole circle, the mean is a Bessel function's value.
    angles = torch.arange(400, dtype=torch.float64) * 2 * math.pi / 400
    circle = torch.stack([angles.cos(), angles.sin()], dim=1)
    whole = 400 * torch.special.i0e(torch.tensor(4.0, dtype=torch.float64)) - 1
    assert uniformity(circle).item() == pytest.approx(math.log(whole / 399))
    assert uniformity(X.half()).dtype == torch.float32


@pytest.mark.parametrize("exclude_self", [False, True])
@pytest.mark.parametrize("conditional", [False, True])
def test_tolerance_is_a_mean_over_pairs(exclude_self, conditional):
    cosines, same = unit(X) @ unit(X).T, TARGET.unsqueeze(1) == TARGET
    counted = ~torch.eye(7, dtype=torch.bool) if exclude_self else torch.ones(7, 7, dtype=torch.bool)
    wanted = (cosines * same)[counted & same if conditional else counted].mean()
    torch.testing.assert_close(tolerance(X, TARGET, exclude_self=exclude_self, conditional=conditional), wanted)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: uniformity(X[:1]), "uniformity: one embedding came; give at least two."),
        (
            lambda: alignment(X, Y[:3]),
            "alignment: embeddings of shape [7, 3] came with embeddings_b of shape [3, 3]; give [batch, d] twice.",
        ),
        (lambda: alignment(X, Y, power=0.5), "alignment: power=0.5 came; give a number at least 1."),
    ],
    ids=["one", "shapes", "power"],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError) as error:
        call()
    assert str(error.value) == message


@pytest.mark.one_graph
def test_compiled_in_one_graph_for_batches_of_all_sizes():
    assert_one_graph(uniformity, [(X[:size],) for size in (4, 5, 7)])
