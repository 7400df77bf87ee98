import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_losses.losses import SpanCorrelation
from tests.losses.strategies import gradient, pairs


@given(pairs(min_rows=2), st.integers(0, 2**31))
def test_it_is_the_mean_over_the_pairs_of_neighbours(pair, seed):
    generator = torch.Generator().manual_seed(seed)
    spans = torch.randint(-1, 2, pair.target.shape, generator=generator)
    s, t = pair.logits.softmax(-1), pair.teacher_logits.softmax(-1)
    terms = [
        (s[j] * s[j + 1] - t[j] * t[j + 1]).square().mean()
        for j in range(len(spans) - 1)
        if spans[j] == spans[j + 1] >= 0
    ]
    expected = torch.stack(terms).mean() if terms else torch.tensor(0.0, dtype=torch.float64)
    torch.testing.assert_close(SpanCorrelation()(*pair[:2], spans), expected)
    assert int(SpanCorrelation().denominator(logits=pair.logits, spans=spans)) == len(terms)


@given(pairs(min_rows=2))
def test_zero_for_the_teacher_itself_and_up_to_a_shift(pair):
    shifted = pair.teacher_logits + 3
    assert SpanCorrelation()(shifted, pair.teacher_logits).item() < 1e-25
    assert SpanCorrelation()(*pair[:2]).item() > 0


def test_it_is_zero_only_where_the_correlations_agree():
    # Two tokens whose probabilities are exchanged have the same products: what is compared is the pair.
    logits = torch.tensor([[1.0, 0.0, 2.0], [0.0, 3.0, 1.0]], dtype=torch.float64)
    assert SpanCorrelation()(logits.flip(0), logits).item() < 1e-25


@given(pairs(min_rows=2))
def test_spans_of_one_token_contribute_nothing(pair):
    spans = torch.arange(len(pair.target))
    assert SpanCorrelation()(*pair[:2], spans).item() == 0
    assert bool((gradient(SpanCorrelation(), *pair[:2], spans) == 0).all())


def test_sequences_do_not_touch_and_padding_may_hold_anything():
    generator = torch.Generator().manual_seed(0)
    logits, teacher = (torch.randn(2, 4, 3, dtype=torch.float64, generator=generator) for _ in range(2))
    spans = torch.tensor([[0, 0, 1, 1], [1, 1, 1, -1]])
    pairs_of_each = torch.tensor([2.0, 2.0], dtype=torch.float64)
    each = torch.stack([SpanCorrelation()(logits[i], teacher[i], spans[i]) for i in range(2)])
    whole = SpanCorrelation()(logits, teacher, spans)
    torch.testing.assert_close(whole, (each * pairs_of_each).sum() / pairs_of_each.sum())
    logits[1, 3] = torch.nan
    assert torch.equal(SpanCorrelation()(logits, teacher, spans), whole)


def test_bad_spans_are_refused():
    logits = torch.zeros(2, 4, 3)
    with pytest.raises(ValueError, match=r"^span_correlation: spans of shape \[2, 3\]"):
        SpanCorrelation()(logits, logits, torch.zeros(2, 3, dtype=torch.long))
    with pytest.raises(ValueError, match=r"^span_correlation: logits of shape \[3\]"):
        SpanCorrelation()(logits[0, 0], logits[0, 0])
