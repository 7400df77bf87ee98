import pytest
import torch

from lightning_losses.transport import row_column_normalization
from lightning_losses.transport.normalization import _LogScaling, _Scaling


def costs(*shape, dtype=torch.float64):
    return 2 * torch.rand(*shape, dtype=dtype)


def unrolled(cost, epsilon, n_iters):
    log_plan = -cost / epsilon
    for _ in range(n_iters):
        log_plan = log_plan - log_plan.logsumexp(dim=-1, keepdim=True)
        log_plan = log_plan - log_plan.logsumexp(dim=-2, keepdim=True)
    return log_plan.exp()


def value_and_gradient(function, cost, weight):
    cost = cost.clone().requires_grad_()
    plan = function(cost)
    return plan.detach(), torch.autograd.grad((plan * weight).sum(), cost)[0]


@pytest.mark.parametrize("bound", [2.0, None], ids=["scalings", "log domain"])
@pytest.mark.parametrize("shape", [(5, 5), (4, 7), (2, 3, 4, 5), (1, 1)])
@pytest.mark.parametrize("n_iters", [1, 2, 20])
def test_value_and_gradient_are_those_of_the_unrolled_iterations(shape, n_iters, bound):
    cost, weight = costs(*shape), torch.randn(*shape, dtype=torch.float64)
    ours = value_and_gradient(
        lambda c: row_column_normalization(c, epsilon=0.1, n_iters=n_iters, cost_bound=bound), cost, weight
    )
    # float64 rounding, through 2 n_iters normalisations.
    torch.testing.assert_close(
        ours, value_and_gradient(lambda c: unrolled(c, 0.1, n_iters), cost, weight), rtol=1e-9, atol=1e-10
    )


@pytest.mark.parametrize("bound", [2.0, None], ids=["scalings", "log domain"])
def test_gradcheck(bound):
    cost = costs(2, 4, 5).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda c: row_column_normalization(c, epsilon=0.3, n_iters=4, cost_bound=bound), cost
    )


@pytest.mark.parametrize("bound", [2.0, None], ids=["scalings", "log domain"])
def test_what_an_infinite_cost_keeps_apart_is_normalised_by_itself(bound):
    blocks, weights = [costs(3, 3), costs(2, 2)], [torch.randn(3, 3, dtype=torch.float64) for _ in range(2)]
    weights[1] = weights[1][:2, :2]
    infinite = torch.full((5, 5), torch.inf, dtype=torch.float64)
    infinite[:3, :3], infinite[3:, 3:] = blocks
    whole = value_and_gradient(
        lambda c: row_column_normalization(c, epsilon=0.1, n_iters=20, cost_bound=bound),
        infinite,
        torch.block_diag(*weights),
    )
    alone = [
        value_and_gradient(
            lambda c: row_column_normalization(c, epsilon=0.1, n_iters=20, cost_bound=bound), block, weight
        )
        for block, weight in zip(blocks, weights, strict=True)
    ]
    for ours, parts in zip(whole, zip(*alone, strict=True), strict=True):
        torch.testing.assert_close(ours, torch.block_diag(*parts))


def test_the_way_follows_the_range_of_the_cost(monkeypatch):
    taken = []
    for way in (_Scaling, _LogScaling):
        monkeypatch.setattr(way, "apply", lambda cost, *_, name=way.__name__: taken.append(name) or cost)
    for dtype, epsilon, bound in [
        (torch.float32, 0.1, 2.0),
        (torch.float32, 0.04, 2.0),
        (torch.float64, 0.04, 2.0),
        (torch.float64, 0.001, 2.0),
        (torch.float32, 0.1, None),
    ]:
        row_column_normalization(torch.zeros(2, 2, dtype=dtype), epsilon=epsilon, n_iters=1, cost_bound=bound)
    assert taken == ["_Scaling", "_LogScaling", "_Scaling", "_LogScaling", "_LogScaling"]


@pytest.mark.parametrize("dtype, epsilon", [(torch.float32, 0.05), (torch.float64, 2 / 300)])
def test_scalings_hold_at_the_edge_of_their_range(dtype, epsilon):
    """Rows that are all near or all far: the largest scalings there are, and finite gradients."""
    cost = torch.full((6, 6), 2.0, dtype=dtype)
    cost[:, 0] = 0.0
    cost[0] = 0.0
    weight = torch.linspace(-1, 1, 36, dtype=dtype).reshape(6, 6)
    fast = value_and_gradient(
        lambda c: row_column_normalization(c, epsilon=epsilon, n_iters=20, cost_bound=2.0), cost, weight
    )
    slow = value_and_gradient(lambda c: row_column_normalization(c.double(), epsilon=epsilon, n_iters=20), cost, weight)
    torch.testing.assert_close(fast[0].double(), slow[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(fast[1].double(), slow[1].double(), rtol=1e-3, atol=1e-4)


def test_the_log_domain_needs_no_range():
    cost = 1e4 * torch.rand(6, 6)
    plan, gradient = value_and_gradient(
        lambda c: row_column_normalization(c, epsilon=0.01, n_iters=20), cost, torch.rand(6, 6)
    )
    torch.testing.assert_close(plan.sum(dim=0), torch.ones(6))
    assert bool(torch.isfinite(gradient).all())


def test_a_row_is_blind_to_its_shift():
    cost = costs(5, 5)
    shifted = cost + 100 * torch.rand(5, 1, dtype=torch.float64)
    torch.testing.assert_close(
        row_column_normalization(shifted, epsilon=0.1, n_iters=5, cost_bound=2.0),
        row_column_normalization(cost, epsilon=0.1, n_iters=5, cost_bound=2.0),
    )


def test_half_precision_and_autocast_keep_float32():
    cost = costs(5, 5, dtype=torch.float32).bfloat16()
    expected = row_column_normalization(cost.float(), epsilon=0.1, n_iters=5, cost_bound=2.0)
    with torch.autocast("cpu", torch.bfloat16):
        plan = row_column_normalization(cost, epsilon=0.1, n_iters=5, cost_bound=2.0)
    assert plan.dtype == torch.float32
    torch.testing.assert_close(plan, expected)


@pytest.mark.parametrize(
    "cost, options, message",
    [
        (torch.zeros(3), {}, r"cost has shape \[3\]"),
        (torch.zeros(0, 3), {}, r"cost has shape \[0, 3\]"),
        (torch.zeros(3, 3).long(), {}, "cost has dtype torch.int64"),
        (torch.zeros(3, 3), {"epsilon": 0.0}, "epsilon=0.0"),
        (torch.zeros(3, 3), {"n_iters": 0}, "n_iters=0"),
    ],
)
def test_bad_input_is_refused(cost, options, message):
    with pytest.raises(ValueError, match=f"^row_column_normalization: {message}"):
        row_column_normalization(cost, **{"epsilon": 0.1, "n_iters": 2, **options})
