"""Shared numerics, checks and reductions."""

import math

import pytest
import torch

from lightning_losses.losses import KD
from lightning_losses.numerics.checks import check_temperature, debug
from lightning_losses.numerics.divergences import cross_entropy, entropy, kl_divergence, kl_divergences
from lightning_losses.numerics.probabilities import (
    known_everywhere,
    known_finite,
    log_mean,
    log_mixture,
    log_probabilities,
)
from lightning_losses.numerics.reduction import reduce
from lightning_losses.numerics.rows import classification_rows, distillation_rows, labelled_rows


def test_reduction_means_over_kept_rows():
    value, kept = torch.tensor([1.0, 2.0, 9.0]), torch.tensor([True, True, False])
    assert reduce(value, "mean", kept) == 1.5
    assert reduce(value, "sum", kept) == 3.0
    assert reduce(value, "none", kept).tolist() == [1.0, 2.0, 0.0]


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_value_that_is_not_kept_may_be_no_number(reduction):
    value = torch.tensor([2.0, math.nan, math.inf])
    assert float(reduce(value, reduction, torch.tensor([True, False, False]))) == 2


def test_reduction_of_nothing_is_zero_with_zero_gradient():
    value = torch.tensor([1.0, 2.0], requires_grad=True)
    reduce(value, "mean", torch.tensor([False, False])).backward()
    assert value.grad.tolist() == [0.0, 0.0]
    assert reduce(torch.zeros(0)) == 0


def test_reduction_refuses_other_names():
    with pytest.raises(ValueError, match=r"reduction='batchmean'.*'mean', 'sum', 'none'"):
        reduce(torch.zeros(2), "batchmean")


def test_divergence_is_finite_where_classes_are_masked():
    logits = torch.tensor([[0.0, 1.0, -math.inf]], requires_grad=True)
    log_q = log_probabilities(logits)
    log_p = log_probabilities(torch.tensor([[1.0, 0.0, -math.inf]]))
    value = kl_divergence(log_p, log_q)
    value.sum().backward()
    two = torch.log_softmax(torch.tensor([[1.0, 0.0]]), -1), torch.log_softmax(torch.tensor([[0.0, 1.0]]), -1)
    torch.testing.assert_close(value, kl_divergence(*two))
    assert logits.grad.isfinite().all()
    assert logits.grad[0, 2] == 0


def test_entropy_of_uniform_and_one_hot():
    assert entropy(torch.full((1, 8), -math.log(8))).item() == pytest.approx(math.log(8))
    assert entropy(log_probabilities(torch.tensor([[0.0, -math.inf]]))).item() == 0


def test_ignored_rows_may_hold_anything():
    logits = torch.tensor([[1.0, 2.0], [math.inf, math.nan]], requires_grad=True)
    rows = classification_rows("demo", logits, torch.tensor([1, -100]))
    rows.logits.logsumexp(-1).sum().backward()
    assert rows.kept.tolist() == [True, False]
    assert logits.grad[1].tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("logits", "target", "message"),
    [
        (torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, dtype=torch.int64), "logits has dtype torch.int64"),
        (
            torch.zeros(2, 3),
            torch.zeros(3, dtype=torch.int64),
            r"target of shape \[3\] came with logits of shape \[2, 3\]",
        ),
        (torch.zeros(2, 3), torch.zeros(2, dtype=torch.int32), "target has dtype torch.int32"),
        (torch.zeros(2, 3), torch.zeros(2, 4), r"floating-point target of shape \[2, 4\]"),
        (torch.zeros(2, 0), None, "C of at least 1"),
        ("scores", None, "logits is a str"),
    ],
)
def test_misfits_are_one_sentence(logits, target, message):
    with pytest.raises(ValueError, match=message) as error:
        classification_rows("demo", logits, target)
    assert str(error.value).startswith("demo: ")


def test_debug_checks_range_and_nan_and_ends_with_its_context():
    logits, target = torch.zeros(2, 3), torch.tensor([0, 3])
    with debug(), pytest.raises(ValueError, match="target 3 came with 3 classes"):
        classification_rows("demo", logits, target)
    with debug(), pytest.raises(ValueError, match="logits hold NaN"):
        classification_rows("demo", logits + math.nan, None)
    classification_rows("demo", logits + math.nan, None)
    # Where values are not to be had, nothing is checked.
    classification_rows("demo", logits.to("meta"), target.to("meta"))


def test_teacher_of_other_classes_is_refused():
    with pytest.raises(ValueError, match=r"teacher_logits of shape \[2, 4\] came with logits of shape \[2, 3\]"):
        distillation_rows("demo", torch.zeros(2, 3), torch.zeros(2, 4))


@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf, "2", None, True])
def test_temperature_is_a_positive_number(value):
    with pytest.raises(ValueError, match="demo: temperature="):
        check_temperature("demo", value)


def test_half_precision_becomes_float32_and_float64_stays():
    for given, kept in [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float64, torch.float64),
    ]:
        assert classification_rows("demo", torch.zeros(1, 2, dtype=given), None).logits.dtype == kept


def test_values_are_read_where_that_is_free():
    assert known_everywhere(torch.tensor([True, True]))
    assert known_everywhere(torch.ones(0, dtype=torch.bool))
    assert not known_everywhere(torch.tensor([True, False]))
    assert known_finite(torch.tensor([1.0, -1.0]))
    for value in (math.inf, -math.inf, math.nan):
        assert not known_finite(torch.tensor([1.0, value]))
    # A sum beyond the dtype: not known, though true.
    assert not known_finite(torch.full((2,), 3e38))


def test_where_reading_waits_or_fails_nothing_is_known():
    assert not known_finite(torch.zeros(2, device="meta"))
    unknown = torch.vmap(lambda row: row * known_finite(row))(torch.ones(2, 3))
    assert unknown.tolist() == [[0.0] * 3] * 2


@pytest.mark.one_graph
def test_losses_work_under_vmap_and_compiled():
    logits, teacher = torch.randn(4, 3), torch.randn(4, 3)
    target = torch.tensor([0, 1, -100, 2])

    each = KD(reduction="none")
    expected = each(logits, teacher, target)
    torch.testing.assert_close(torch.vmap(each)(logits, teacher, target), expected)
    torch.testing.assert_close(
        torch.compile(each, backend="aot_eager", fullgraph=True)(logits, teacher, target), expected
    )


@pytest.mark.parametrize("weight", [1e-6, 0.1, 0.9])
def test_the_mean_of_probabilities_stands_for_the_mixture(weight):
    p, q = (20 * torch.randn(8, 5, dtype=torch.float64)).softmax(dim=-1), torch.rand(8, 5, dtype=torch.float64)
    q = q / q.sum(dim=-1, keepdim=True)
    expected = log_mixture(p.log(), q.log(), weight)
    torch.testing.assert_close(log_mean(p, q, weight), expected, rtol=1e-12, atol=1e-12)
    assert log_mean(torch.zeros(1), torch.zeros(1), weight).isfinite().all()


def test_divergences_of_both_directions():
    log_p, log_q = (torch.randn(3, 4).log_softmax(dim=-1) for _ in range(2))
    forward, reverse = kl_divergences(log_p, log_q)
    torch.testing.assert_close(forward, kl_divergence(log_p, log_q))
    torch.testing.assert_close(reverse, kl_divergence(log_q, log_p))


def test_cross_entropy_leaves_classes_without_mass_out():
    log_p = torch.tensor([[0.0, -math.inf]], requires_grad=True)
    value = cross_entropy(log_p, torch.tensor([[1.0, 0.0]]))
    value.sum().backward()
    assert value.item() == 0 and log_p.grad.tolist() == [[-1.0, 0.0]]
    # A class with mass that the prediction rules out costs infinitely much.
    assert cross_entropy(log_p, torch.tensor([[0.5, 0.5]])).item() == math.inf
    assert cross_entropy(log_p, torch.tensor([0])).item() == 0


def test_labels_in_bytes_are_none_of_them_ignored():
    assert labelled_rows(torch.tensor([156, 3], dtype=torch.uint8)).all()
