import math
import zlib

import pytest
import torch

from lightning_losses.kernels.token_record import token_record
from lightning_losses.metrics import (
    dc_pdd_score,
    loss_score,
    min_k_plus_plus_score,
    min_k_score,
    reference_score,
    token_frequencies,
    zlib_score,
)

MASK = torch.tensor([[1, 1, 0, 1, 1], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0]])


def record():
    """Of three texts of five tokens; the record's own logits beside it."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(3, 5, 4, dtype=torch.float64, generator=generator)
    head = torch.randn(9, 4, dtype=torch.float64, generator=generator)
    target = torch.randint(0, 9, (3, 5), generator=generator)
    return token_record(hidden, head, target, entropies=True, variances=True), (hidden @ head.T).log_softmax(-1), target


def rows(values):
    """The kept values of each text that has some."""
    return [value[mask == 1] for value, mask in zip(values, MASK, strict=True)][:2]


def compared(score, expected):
    assert score[2].isnan()
    torch.testing.assert_close(score[:2], torch.stack(expected))


def test_means_from_the_definition():
    logps, reference = record()[0].logps, record()[0].logps.flip(0)
    compared(loss_score(logps, MASK), [row.mean() for row in rows(logps)])
    compared(reference_score(logps, reference, MASK), [row.mean() for row in rows(logps - reference)])
    texts = ["a" * 99, b"import os", "x"]
    sizes = [len(zlib.compress(b"a" * 99)), len(zlib.compress(b"import os"))]
    compared(zlib_score(logps, texts, MASK), [row.mean() / n for row, n in zip(rows(logps), sizes, strict=True)])


def test_a_share_is_counted_as_it_is_written():
    logps = -torch.arange(900, dtype=torch.float64).unsqueeze(0)
    # In float32 0.13 of 900 is 116.99999.
    assert min_k_score(logps, share=0.13).item() == -(899 + 783) / 2


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_lowest_tokens_from_the_definition(share):
    given, log_p, _ = record()
    lowest = [row.sort().values[: max(1, int(share * len(row)))].mean() for row in rows(given.logps)]
    compared(min_k_score(given.logps, MASK, share), lowest)
    mean = (log_p.exp() * log_p).sum(-1)
    deviation = (log_p.exp() * (log_p - mean.unsqueeze(-1)) ** 2).sum(-1).sqrt()
    standardised = rows((given.logps - mean) / deviation)
    compared(
        min_k_plus_plus_score(given.logps, given.entropies, given.variances, MASK, share),
        [row.sort().values[: max(1, int(share * len(row)))].mean() for row in standardised],
    )


def test_distributions_without_spread_are_finite():
    zero = torch.zeros(1, 3)
    assert min_k_plus_plus_score(zero, zero, zero).item() == 0
    even = torch.full((1, 3), -math.log(9))
    assert abs(min_k_plus_plus_score(even, -even, zero).item()) < 1e-3


def test_dc_pdd_counts_a_token_of_a_text_once():
    given, _, target = record()
    frequencies = token_frequencies(torch.arange(9))
    score = dc_pdd_score(given.logps, target, frequencies, MASK, clip=0.3)
    expected = []
    for logps, tokens, mask in list(zip(given.logps, target, MASK, strict=True))[:2]:
        seen, values = set(), []
        for logp, token, kept in zip(logps.tolist(), tokens.tolist(), mask.tolist(), strict=True):
            if kept and token not in seen:
                seen.add(token)
                values.append(min(math.exp(logp) * math.log(1 / frequencies[token].item()), 0.3))
        expected.append(torch.tensor(sum(values) / len(values)).double())
    compared(score, expected)


def test_what_masked_tokens_are_does_not_matter():
    given, _, target = record()
    spoilt = target.masked_fill(MASK == 0, -100)
    frequencies = token_frequencies(torch.arange(9))
    scores = [dc_pdd_score(given.logps, tokens, frequencies, MASK) for tokens in (target, spoilt)]
    torch.testing.assert_close(*scores, equal_nan=True)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda one: zlib_score(one, []), "1 rows came with 0 texts"),
        (lambda one: min_k_score(one, share=0.0), "share"),
        (lambda one: min_k_plus_plus_score(one, one[:, :1], one), r"entropies of shape \[1, 1\] came"),
        (lambda one: dc_pdd_score(one, one, torch.ones(2)), "give the id of each token"),
        (lambda one: dc_pdd_score(one, torch.tensor([[0, 7]]), torch.ones(2)), "the token 7 came"),
        (lambda one: dc_pdd_score(one, torch.tensor([[0, 1]]), torch.zeros(2)), "see token_frequencies"),
        (lambda one: token_frequencies(torch.tensor([-1])), "give a number of at least 0 for each token"),
    ],
    ids=["texts", "share", "entropies", "ids", "beyond", "frequencies", "counts"],
)
def test_what_does_not_fit_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call(torch.full((1, 2), -1.0))
