import math

import torch

from lightning_losses.numerics.two_pass_softmax import exponent_pair, log_of, merge, merged, two_pass_softmax

INF = math.inf


def rows(dtype=torch.float64):
    x = 3 * torch.randn(4, 7, dtype=dtype, generator=torch.Generator().manual_seed(0))
    x[1] *= 1e3
    x[2, :3] = -INF
    return x


def test_it_is_softmax_and_logsumexp_in_both_precisions():
    for dtype in (torch.float32, torch.float64):
        x = rows(dtype)
        torch.testing.assert_close(two_pass_softmax(x), x.softmax(-1))
        torch.testing.assert_close(log_of(merged(exponent_pair(x))), x.logsumexp(-1))
        assert bool(torch.isnan(two_pass_softmax(torch.full((2,), -INF, dtype=dtype))).all())


def test_mantissas_are_near_1_and_exact():
    x = torch.linspace(-1e4, 1e4, 1001)
    pair = exponent_pair(x)
    assert (pair.mantissa >= math.sqrt(0.5) * 0.999).all() and (pair.mantissa <= math.sqrt(2) * 1.001).all()
    expected = exponent_pair(x.double())
    torch.testing.assert_close(pair.mantissa.double(), expected.mantissa, rtol=1e-6, atol=0)


def test_chunks_add_up_in_any_order():
    x = rows()
    expected = x.logsumexp(-1)
    one, two, three = (merged(exponent_pair(part)) for part in (x[:, :2], x[:, 2:3], x[:, 3:]))
    for total in (merge(merge(one, two), three), merge(one, merge(two, three)), merge(merge(three, one), two)):
        torch.testing.assert_close(log_of(total), expected)


def test_nothing_adds_nothing():
    nothing, something = (merged(exponent_pair(torch.tensor([[x, x]]))) for x in (-INF, -900.0))
    for total in (merge(nothing, something), merge(something, nothing)):
        torch.testing.assert_close(log_of(total), torch.tensor([-900.0 + math.log(2)]))
    assert log_of(merge(nothing, nothing)).item() == -INF
    assert log_of(merged(exponent_pair(torch.tensor([-INF, -900.0])))).item() == -900.0


def test_its_gradient_is_that_of_softmax():
    x = rows()[[0, 2]].requires_grad_()
    weights = torch.arange(7, dtype=torch.float64)
    ours, theirs = ((weights * softmax(x)).sum() for softmax in (two_pass_softmax, lambda x: x.softmax(-1)))
    torch.testing.assert_close(torch.autograd.grad(ours, x), torch.autograd.grad(theirs, x))
