"""Near the exponents where a divergence is a limit, it is as right as elsewhere: against 60 digits."""

import mpmath
import pytest
import torch

from lightning_losses.losses import ABDivergence, AdaptiveAlphaDivergence

STUDENT, TEACHER = [0.3, -1.7, 2.1, 2.0], [-0.4, 1.2, 1.9, 2.0]
DISTANCES = [1e-2, 1e-4, 1e-6, 1e-8, 1e-12, 1e-14]
# Each with the direction in which the exponents leave it.
AB = {
    "KL(t || s)": ((1.0, 0.0), (0.0, 1.0)),
    "KL(s || t)": ((0.0, 1.0), (1.0, 0.0)),
    "no first exponent": ((0.0, 0.7), (1.0, 0.0)),
    "no second exponent": ((-0.6, 0.0), (0.0, -1.0)),
    "both along a line": ((0.0, 0.0), (1.0, 2.0)),
    "both, and their sum": ((0.0, 0.0), (1.0, -1.1)),
    "both, one by far": ((0.0, 0.0), (1.0, 1e-6)),
    "a sum of 0": ((0.3, -0.3), (1.0, 0.0)),
    "a sum of 0 from below": ((-0.2, 0.2), (0.0, -1.0)),
}


def exact(student, alpha, beta):
    """The value and its gradient, by differences, of numbers with 60 digits."""
    with mpmath.workdps(60):
        alpha, beta = mpmath.mpf(alpha), mpmath.mpf(beta)

        def value(moved, by):
            s = [mpmath.e ** (mpmath.mpf(z) + by * (k == moved)) for k, z in enumerate(student)]
            t = [mpmath.e ** mpmath.mpf(z) for z in TEACHER]
            total = alpha + beta
            terms = []
            for p, q in zip((x / sum(s) for x in s), (x / sum(t) for x in t), strict=True):
                terms.append(q**alpha * p**beta - alpha / total * q**total - beta / total * p**total)
            return -sum(terms) / (alpha * beta)

        step = mpmath.mpf("1e-12")
        slopes = [(value(k, step) - value(k, -step)) / (2 * step) for k in range(len(student))]
        return float(value(-1, 0)), [float(slope) for slope in slopes]


def came(loss, dtype):
    student = torch.tensor([STUDENT], dtype=dtype, requires_grad=True)
    value = loss(student, torch.tensor([TEACHER], dtype=dtype))
    return value.item(), torch.autograd.grad(value, student)[0][0].tolist()


def close(loss, alpha, beta):
    value, gradient = exact(STUDENT, alpha, beta)
    for dtype, tolerance in ((torch.float64, 1e-11), (torch.float32, 2e-5)):
        found = came(loss, dtype)
        assert found[0] == pytest.approx(value, rel=tolerance), dtype
        assert found[1] == pytest.approx(gradient, rel=tolerance, abs=tolerance), dtype


@pytest.mark.parametrize("limit", AB)
@pytest.mark.parametrize("distance", DISTANCES)
def test_alpha_beta(limit, distance):
    (alpha, beta), (of_alpha, of_beta) = AB[limit]
    alpha, beta = alpha + distance * of_alpha, beta + distance * of_beta
    close(ABDivergence(alpha, beta), alpha, beta)


def test_a_sum_that_rounding_leaves():
    assert 0.1 + 0.2 - 0.3 != 0
    close(ABDivergence(0.1 + 0.2, -0.3), 0.1 + 0.2, -0.3)


@pytest.mark.parametrize("distance", [sign * distance for distance in DISTANCES for sign in (1, -1)])
@pytest.mark.parametrize("limit", [0.0, 1.0])
def test_alpha(limit, distance):
    alpha = limit + distance
    close(AdaptiveAlphaDivergence(alpha, alpha, clip=1e6), alpha, 1 - mpmath.mpf(alpha))


@pytest.mark.parametrize(("alpha", "beta"), [(1e-3, 0.7), (0.7, 1e-3), (0.0, 1e-3), (1e-3, 0.0), (1e-3, 1e-3)])
def test_masked_classes_near_a_limit(alpha, beta):
    """One term of three is left of a class that one network masks; an infinite one counts as e^-100."""
    logits = torch.tensor([[0.5, 0.0, -torch.inf], [0.5, -torch.inf, 0.0]], dtype=torch.float64)
    for student, teacher in (logits, logits.flip(0)):
        value = ABDivergence(alpha, beta)(student[None], teacher[None])
        shown = [z.log_softmax(-1).tolist() for z in (student, teacher)]
        expected = float(_masked(*shown, alpha, beta))
        assert value.item() == pytest.approx(expected, rel=1e-9)


def _masked(log_s, log_t, alpha, beta):
    with mpmath.workdps(60):
        tiny = mpmath.mpf("1e-20")
        # A limit in an exponent, to 20 digits; beside it what is masked counts as e^-100.
        near = [exponent or tiny for exponent in (alpha, beta)]
        total, terms = sum(near), []
        for logs in zip(log_s, log_t, strict=True):
            floor = (-100 if beta == 0 else -mpmath.inf, -100 if alpha == 0 else -mpmath.inf)
            s, t = (mpmath.e ** mpmath.mpf(max(z, low)) for z, low in zip(logs, floor, strict=True))
            terms.append(t ** near[0] * s ** near[1] - near[0] / total * t**total - near[1] / total * s**total)
        return -sum(terms) / (near[0] * near[1])
