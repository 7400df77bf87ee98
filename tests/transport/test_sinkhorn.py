import pytest
import torch
from scipy.optimize import linear_sum_assignment

from lightning_losses.transport import entropic_cost, kl_cost, sharp_cost, sinkhorn


def problem(n=5, m=7, batch=(), seed=0):
    generator = torch.Generator().manual_seed(seed)
    cost = torch.rand(*batch, n, m, dtype=torch.float64, generator=generator)
    a = torch.rand(*batch, n, dtype=torch.float64, generator=generator) + 0.1
    b = torch.rand(*batch, m, dtype=torch.float64, generator=generator) + 0.1
    return cost, a / a.sum(dim=-1, keepdim=True), b / b.sum(dim=-1, keepdim=True)


CONVERGED = {"n_iters": 20000, "tolerance": 1e-13}


def test_rows_are_exact_and_columns_in_the_limit():
    cost, a, b = problem()
    few, many = sinkhorn(cost, a, b, epsilon=0.05, n_iters=2), sinkhorn(cost, a, b, epsilon=0.05, **CONVERGED)
    torch.testing.assert_close(few.plan.sum(dim=-1), a)
    assert (few.plan.sum(dim=-2) - b).abs().max() > 1e-6
    torch.testing.assert_close(many.plan.sum(dim=-1), a)
    torch.testing.assert_close(many.plan.sum(dim=-2), b, rtol=0, atol=1e-12)


def test_the_potentials_make_the_plan():
    cost, a, b = problem()
    result = sinkhorn(cost, a, b, epsilon=0.1)
    exponent = (result.f[:, None] + result.g[None] - cost) / 0.1
    torch.testing.assert_close(result.plan, a[:, None] * b * exponent.exp())


def test_large_epsilon_is_independence():
    cost, a, b = problem()
    torch.testing.assert_close(sinkhorn(cost, a, b, epsilon=1e6).plan, a[:, None] * b, rtol=1e-5, atol=0)


def test_small_epsilon_is_the_best_assignment():
    cost, _, _ = problem(6, 6)
    rows, columns = linear_sum_assignment(cost.numpy())
    best = cost.numpy()[rows, columns].mean()
    result = sinkhorn(cost, epsilon=1e-3, n_iters=5000, annealing=10)
    # The entropy is worth at most epsilon log 6.
    assert abs(sharp_cost(result).item() - best) < 1e-3 * 1.8


def test_annealing_reaches_the_same_plan_sooner():
    cost, a, b = problem(12, 12)
    exact = sinkhorn(cost, a, b, epsilon=2e-3, n_iters=100000, tolerance=1e-12).plan
    plain = sinkhorn(cost, a, b, epsilon=2e-3, n_iters=40).plan
    annealed = sinkhorn(cost, a, b, epsilon=2e-3, n_iters=30, annealing=10).plan
    assert (annealed - exact).abs().sum() < (plain - exact).abs().sum()


def test_a_batch_is_a_loop():
    cost, a, b = problem(batch=(2, 3))
    batched = sinkhorn(cost, a, b, epsilon=0.1)
    single = sinkhorn(cost[1, 2], a[1, 2], b[1, 2], epsilon=0.1)
    torch.testing.assert_close(batched.plan[1, 2], single.plan)
    torch.testing.assert_close(kl_cost(batched)[1, 2], kl_cost(single))
    torch.testing.assert_close(
        sinkhorn(cost, a[0, 0], b[0, 0], epsilon=0.1).plan[1, 2],
        sinkhorn(cost[1, 2], a[0, 0], b[0, 0], epsilon=0.1).plan,
    )


def test_permutations_carry_over():
    cost, a, b = problem()
    rows, columns = torch.randperm(5), torch.randperm(7)
    moved = sinkhorn(cost[rows][:, columns], a[rows], b[columns], epsilon=0.1).plan
    torch.testing.assert_close(moved, sinkhorn(cost, a, b, epsilon=0.1).plan[rows][:, columns])


def test_symmetric_problems_have_symmetric_potentials():
    cost, a, _ = problem(5, 5)
    result = sinkhorn(cost + cost.T, a, a, epsilon=0.2, **CONVERGED)
    difference = result.f - result.g
    torch.testing.assert_close(difference, difference.mean().expand(5), rtol=0, atol=1e-10)


def test_the_costs_differ_by_entropies():
    cost, a, b = problem()
    result = sinkhorn(cost, a, b, epsilon=0.1, **CONVERGED)

    def entropy(p):
        return -(p * p.log()).sum()

    torch.testing.assert_close(entropic_cost(result), sharp_cost(result) - 0.1 * entropy(result.plan))
    torch.testing.assert_close(kl_cost(result), entropic_cost(result) + 0.1 * (entropy(a) + entropy(b)))
    torch.testing.assert_close(kl_cost(result), (a * result.f).sum() + (b * result.g).sum(), rtol=0, atol=1e-10)


COSTS = [(cost, how) for cost in (sharp_cost, kl_cost, entropic_cost) for how in ("unrolled", "implicit", "envelope")]


@pytest.mark.parametrize("cost_of, gradient", [case for case in COSTS if case != (sharp_cost, "envelope")])
def test_gradients_agree_at_convergence(cost_of, gradient):
    """By cost and weights; those of the weights along directions that keep their sums."""
    cost, a, b = problem()
    along_a, along_b = torch.randn(5, dtype=torch.float64), torch.randn(7, dtype=torch.float64)
    along_a, along_b = along_a - along_a.mean(), along_b - along_b.mean()

    def value(cost, shift_a, shift_b, how):
        result = sinkhorn(cost, a + shift_a * along_a, b + shift_b * along_b, epsilon=0.1, gradient=how, n_iters=400)
        return cost_of(result)

    leaves = [cost.requires_grad_(), *(torch.zeros((), dtype=torch.float64, requires_grad=True) for _ in range(2))]
    exact = torch.autograd.grad(value(*leaves, "unrolled"), leaves)
    step = 1e-4
    for which in (1, 2):
        ends = [
            value(cost, *(sign * step if which == k else 0.0 for k in (1, 2)), "implicit").item() for sign in (1, -1)
        ]
        # Central differences: the error is of the order of step².
        assert abs((ends[0] - ends[1]) / (2 * step) - exact[which].item()) < 1e-5
    torch.testing.assert_close(torch.autograd.grad(value(*leaves, gradient), leaves), exact, rtol=1e-6, atol=1e-8)


def test_the_implicit_gradient_serves_any_function_of_the_plan():
    cost, a, b = problem(batch=(2,))
    weight = torch.randn(2, 5, 7, dtype=torch.float64)
    leaf = cost.requires_grad_()
    slopes = [
        torch.autograd.grad(
            (sinkhorn(leaf, a, b, epsilon=0.1, gradient=how, n_iters=500).plan ** 2 * weight).sum(), leaf
        )
        for how in ("unrolled", "implicit")
    ]
    torch.testing.assert_close(slopes[1], slopes[0], rtol=1e-6, atol=1e-8)


def test_the_envelope_is_refused_where_it_is_wrong():
    with pytest.raises(ValueError, match="^sharp_cost: .*gradient='envelope'"):
        sharp_cost(sinkhorn(torch.rand(3, 3), epsilon=0.1, gradient="envelope"))


@pytest.mark.parametrize("gradient", ["unrolled", "implicit", "envelope"])
def test_weights_of_zero_take_nothing(gradient):
    cost, a, b = problem()
    a[0], b[1] = 0.0, 0.0
    a, b = a / a.sum(), b / b.sum()
    leaf = cost.clone().requires_grad_()
    result = sinkhorn(leaf, a, b, epsilon=0.1, gradient=gradient, n_iters=500)
    assert bool((result.plan[0] == 0).all()) and bool((result.plan[:, 1] == 0).all())
    slope = torch.autograd.grad(kl_cost(result), leaf)[0]
    torch.testing.assert_close(slope, result.plan.detach(), rtol=1e-6, atol=1e-8)


def test_float32_stays_finite_where_the_kernel_underflows():
    cost = torch.rand(12, 12, requires_grad=True)
    result = sinkhorn(cost, epsilon=1e-3, n_iters=200, annealing=10)
    slope = torch.autograd.grad(sharp_cost(result), cost)[0]
    assert bool(torch.isfinite(slope).all())
    assert abs(result.plan.sum().item() - 1) < 1e-4


@pytest.mark.parametrize("n", [2, 6, 30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("epsilon", [0.02, 0.001])
def test_the_gradient_of_a_plan_that_falls_into_parts_is_the_plan(n, dtype, epsilon):
    """Of the sharp cost, up to the share of other pairs, which is below e^-50."""
    cost = (1 - torch.eye(n, dtype=dtype)).requires_grad_()
    result = sinkhorn(cost, epsilon=epsilon)
    torch.testing.assert_close(
        torch.autograd.grad(sharp_cost(result), cost)[0], result.plan.detach(), rtol=0, atol=1e-6
    )


def test_a_tolerance_stops_early():
    cost, a, b = problem()
    loose = sinkhorn(cost, a, b, epsilon=0.5, n_iters=10000, tolerance=1e-1).plan
    torch.testing.assert_close(loose, sinkhorn(cost, a, b, epsilon=0.5, n_iters=10).plan, rtol=0, atol=0)


@pytest.mark.parametrize(
    "arguments, options, message",
    [
        ((torch.zeros(3),), {}, r"cost has shape \[3\]"),
        ((torch.zeros(3, 0),), {}, r"cost has shape \[3, 0\]"),
        ((torch.zeros(3, 3), torch.ones(2) / 2), {}, r"a of shape \[2\].*\[3, 3\]"),
        ((torch.zeros(3, 3), None, torch.ones(3).long()), {}, "b of shape .*int64"),
        ((torch.zeros(3, 3), torch.tensor([0.5, 0.6, -0.1])), {}, "a came with a weight below 0"),
        ((torch.zeros(3, 3), torch.ones(3), torch.ones(3) / 3), {}, "a of sum 3 came with b of sum 1; give both"),
        ((torch.zeros(3, 3), [1 / 3] * 3), {}, "a came as a list; give a tensor"),
        ((torch.zeros(3, 3, 3), torch.ones(2, 3) / 3), {}, r"a of shape \[2, 3\] .* give .* of shape \[3, 3\]"),
        ((torch.zeros(2, 2, 2), torch.eye(2), torch.ones(2, 2).tril()), {}, "a of sum 1 came with b of sum 2"),
        ((torch.eye(3).log(),), {}, "cost holds -inf; give numbers that are finite"),
        ((-torch.eye(3).log(),), {}, "cost holds inf; give numbers that are finite"),
        ((torch.zeros(3, 3),), {"annealing": -1}, "annealing=-1 came; give a whole number"),
        ((torch.zeros(3, 3),), {"tolerance": -1.0}, "tolerance=-1.0 came; give a number at least 0"),
        ((torch.zeros(3, 3),), {"epsilon": 0.0}, "epsilon=0.0"),
        ((torch.zeros(3, 3),), {"n_iters": 0}, "n_iters=0"),
        ((torch.zeros(3, 3),), {"gradient": "exact"}, "gradient='exact'"),
    ],
)
def test_bad_input_is_refused(arguments, options, message):
    with pytest.raises(ValueError, match=f"^sinkhorn: {message}"):
        sinkhorn(*arguments, **{"epsilon": 0.1, **options})


def test_a_weight_that_is_not_a_number_stays_so():
    weights = torch.tensor([0.5, torch.nan, 0.5])
    assert bool(torch.isnan(sinkhorn(torch.zeros(3, 3), weights, epsilon=0.1).plan).all())
    assert bool(torch.isnan(kl_cost(sinkhorn(torch.full((3, 3), torch.nan), epsilon=0.1))))
