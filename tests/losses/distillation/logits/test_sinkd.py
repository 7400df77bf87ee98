import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_losses.losses import ForwardKL, SinKD, TotalVariation
from lightning_losses.losses.distillation.logits.sinkd import sinkd_transport
from tests.losses.strategies import gradient, pairs


def unrolled(logits, teacher_logits, temperature=2.0, epsilon=0.1, n_iters=20):
    """The definition in plain operations, differentiated by autograd."""
    s, t = ((z / temperature).softmax(dim=-1) for z in (logits, teacher_logits))
    cost = (s[:, None] - t[None]).abs().sum(dim=-1)
    log_plan = -cost / epsilon
    for _ in range(n_iters):
        log_plan = log_plan - log_plan.logsumexp(dim=1, keepdim=True)
        log_plan = log_plan - log_plan.logsumexp(dim=0, keepdim=True)
    return (log_plan.exp() * cost).sum()


@given(pairs(), st.sampled_from([0.005, 0.05, 0.1, 1.0]), st.integers(1, 10))
def test_value_and_gradient_are_those_of_the_definition(pair, epsilon, n_iters):
    def ours(logits):
        return SinKD(epsilon=epsilon, n_iters=n_iters, scale=1.0)(logits, pair.teacher_logits)

    def plain(logits):
        return unrolled(logits, pair.teacher_logits, epsilon=epsilon, n_iters=n_iters)

    torch.testing.assert_close(ours(pair.logits), plain(pair.logits))
    # Gradients carry 1 / epsilon through every iteration.
    torch.testing.assert_close(gradient(ours, pair.logits), gradient(plain, pair.logits), rtol=1e-6, atol=1e-9)


@given(pairs(min_rows=2))
def test_it_does_not_see_the_order_of_classes_or_of_teacher_rows(pair):
    value = SinKD()(*pair[:2])
    classes, rows = torch.randperm(pair.logits.shape[1]), torch.randperm(len(pair.logits))
    torch.testing.assert_close(SinKD()(pair.logits[:, classes], pair.teacher_logits[:, classes]), value)
    torch.testing.assert_close(SinKD()(pair.logits, pair.teacher_logits[rows]), value)


@given(pairs(min_rows=2, max_scale=2.0))
def test_columns_are_exact_and_rows_in_the_limit(pair):
    ones = torch.ones(len(pair.logits), dtype=torch.float64)
    few = sinkd_transport(*pair[:2], n_iters=2).plan
    many = sinkd_transport(*pair[:2], epsilon=0.3, n_iters=2000).plan
    torch.testing.assert_close(few.sum(dim=0), ones)
    torch.testing.assert_close(many.sum(dim=0), ones)
    torch.testing.assert_close(many.sum(dim=1), ones, rtol=0, atol=1e-6)


@given(pairs())
def test_a_single_row_pays_twice_the_total_variation(pair):
    student, teacher = pair.logits[:1], pair.teacher_logits[:1]
    expected = 2 * TotalVariation(temperature=2.0)(student, teacher)
    torch.testing.assert_close(SinKD(scale=1.0)(student, teacher), expected)


@given(pairs(min_rows=2))
def test_large_epsilon_mixes_all_pairs_alike(pair):
    cost = sinkd_transport(*pair[:2]).cost
    value = SinKD(epsilon=1e7, scale=1.0)(*pair[:2])
    torch.testing.assert_close(value, cost.sum() / len(cost), rtol=1e-6, atol=1e-9)


@given(pairs(min_rows=2))
def test_it_is_bounded_where_the_divergence_is_not(pair):
    assert SinKD(scale=1.0, mass="unit")(50 * pair.logits, -50 * pair.logits).item() <= 2 + 1e-9


def test_confident_and_disjoint_rows():
    """With the gap of logits the divergence grows in a line, this loss stays at 2 per row."""
    values = []
    for gap in (20.0, 40.0, 80.0):
        student, teacher = torch.zeros(4, 8), torch.zeros(4, 8)
        student[range(4), range(4)], teacher[range(4), range(4, 8)] = gap, gap
        values.append((ForwardKL()(student, teacher).item(), SinKD(1.0, scale=1.0)(student, teacher).item()))
    assert [round(divergence) for divergence, _ in values] == [20, 40, 80]
    assert all(1.99 < distance / 4 <= 2.0 + 1e-5 for _, distance in values)


def test_entropy_keeps_it_from_zero_at_the_teacher():
    logits = torch.randn(6, 5, dtype=torch.float64)
    blurred = [SinKD(epsilon=epsilon, scale=1.0, n_iters=200)(logits, logits).item() for epsilon in (0.5, 0.1, 0.01)]
    assert blurred[0] > blurred[1] > blurred[2]
    assert blurred[2] < 1e-3 < blurred[0]
    assert gradient(SinKD(epsilon=0.5), logits, logits).abs().max() > 1e-7


def test_mass_unit_is_a_mean_over_rows():
    logits, teacher = torch.randn(5, 3), torch.randn(5, 3)
    torch.testing.assert_close(5 * SinKD(mass="unit")(logits, teacher), SinKD(mass="batch")(logits, teacher))


def test_a_detached_plan_leaves_the_gradient_of_the_cost():
    logits, teacher = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    plan = sinkd_transport(logits, teacher).plan
    held = gradient(lambda z: (plan * sinkd_transport(z, teacher).cost).sum(), logits)
    detached = SinKD(scale=1.0, detach_plan=True)
    assert torch.equal(detached(logits, teacher), SinKD(scale=1.0)(logits, teacher))
    torch.testing.assert_close(gradient(detached, logits, teacher), held)
    assert (gradient(SinKD(scale=1.0), logits, teacher) - held).abs().max() > 1e-3


def test_ignored_rows_are_not_transported():
    """Zeros in their place would be transported too, and so change the loss of the others."""
    logits, teacher = torch.randn(6, 3, dtype=torch.float64), torch.randn(6, 3, dtype=torch.float64)
    target = torch.tensor([0, -100, 1, -100, 2, 0])
    kept = target != -100
    for options in ({}, {"mass": "unit"}, {"detach_plan": True}, {"epsilon": 0.005}):
        loss = SinKD(**{"scale": 1.0, **options})
        torch.testing.assert_close(loss(logits, teacher, target), loss(logits[kept], teacher[kept]))
        slope = gradient(loss, logits, teacher, target)
        torch.testing.assert_close(slope[kept], gradient(loss, logits[kept], teacher[kept]))
        assert bool((slope[~kept] == 0).all())
    assert not torch.equal(SinKD()(logits, teacher, target), SinKD()(logits, teacher))


def test_it_compiles_whole_with_ignored_rows():
    logits, teacher = torch.randn(6, 3), torch.randn(6, 3)
    target = torch.tensor([0, -100, 1, -100, 2, 0])
    loss = SinKD(scale=1.0)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(logits, teacher, target), loss(logits, teacher, target))
    torch.testing.assert_close(gradient(compiled, logits, teacher, target), gradient(loss, logits, teacher, target))


@pytest.mark.parametrize("epsilon", [1e-3, 0.03, 0.1])
def test_float32_is_close_to_float64_on_both_ways(epsilon):
    generator = torch.Generator().manual_seed(1)
    logits, teacher = (3 * torch.randn(32, 10, dtype=torch.float64, generator=generator) for _ in range(2))
    loss = SinKD(epsilon=epsilon, scale=1.0)
    torch.testing.assert_close(
        loss(logits.float(), teacher.float()).double(), loss(logits, teacher), rtol=1e-3, atol=0
    )  # 1e-7 in the cost, over epsilon
    slope = gradient(loss, logits.float(), teacher.float()).double()
    exact = gradient(loss, logits, teacher)
    assert (slope - exact).norm() / exact.norm() < 2e-2


@pytest.mark.parametrize(
    "options", [{"epsilon": 0.0}, {"n_iters": 0}, {"n_iters": 2.5}, {"scale": -1.0}, {"mass": "sum"}]
)
def test_bad_options_are_refused(options):
    with pytest.raises(ValueError, match=f"^sinkd: {next(iter(options))}"):
        SinKD(**options)
