"""Softplus attention by its definition, row by row; its limits and masks; and in our transformer."""

import math

import pytest
import torch
import torch.nn.functional as F

from lightning_losses.networks.softplus_attention import softplus_attention, softplus_weights
from lightning_losses.networks.transformer import Transformer
from tests.each import each

QUERY, KEY, VALUE = torch.randn(3, 2, 3, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def row(query, keys, power):
    """The weights of one query over the keys that it sees, both before and after the re-weighting."""
    scale = math.log(len(query)) * math.log(len(keys))
    scores = torch.stack([F.softplus(scale * F.cosine_similarity(query, key, dim=0)) for key in keys])
    first = scores / scores.sum()
    second = (len(keys) * first - int(len(keys) > 3)).clamp(min=0) ** power
    return first, second / second.sum()


@each("power", [1.0, 3.0, 15.0])
def test_each_row_is_that_of_the_definition(power):
    weights = softplus_weights(QUERY, KEY, power=power)
    for number in range(6):
        first, second = row(QUERY[1, 2, number], KEY[1, 2, : number + 1], power)
        rest = torch.zeros(5 - number, dtype=torch.float64)
        torch.testing.assert_close(weights.lssa[1, 2, number], torch.cat([first, rest]))
        torch.testing.assert_close(weights.lssar[1, 2, number], torch.cat([second, rest]))
    torch.testing.assert_close(softplus_attention(QUERY, KEY, VALUE, power=power), weights.lssar @ VALUE)
    torch.testing.assert_close(softplus_attention(QUERY, KEY, VALUE, power=None), weights.lssa @ VALUE)


def test_lengths_of_queries_and_keys_do_not_matter():
    torch.testing.assert_close(softplus_attention(9 * QUERY, KEY / 7, VALUE), softplus_attention(QUERY, KEY, VALUE))


def test_packed_documents_are_as_if_alone():
    alone = [
        softplus_attention(QUERY[..., part, :], KEY[..., part, :], VALUE[..., part, :])
        for part in (slice(4), slice(4, 6))
    ]
    documents = torch.tensor([0, 0, 0, 0, 1, 1])
    mask = (documents.unsqueeze(1) == documents) & torch.ones(6, 6, dtype=torch.bool).tril()
    torch.testing.assert_close(softplus_attention(QUERY, KEY, VALUE, mask), torch.cat(alone, dim=-2))


def test_alike_keys_give_0_and_a_finite_gradient():
    key = torch.ones(1, 5, 4).requires_grad_()
    weights = softplus_weights(torch.ones(1, 5, 4), key)
    # The first three rows have no offset; from the fourth on no key is above the average, up to rounding.
    torch.testing.assert_close(weights.lssar[0, :3].sum(-1), torch.ones(3))
    assert bool((weights.lssar.sum(-1) <= 1 + 1e-6).all())
    weights.lssar.sum().backward()
    assert bool(torch.isfinite(key.grad).all())


@each("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened_for_the_power(dtype):
    query, key, value = (tensor.to(dtype) for tensor in (QUERY, KEY, VALUE))
    found = softplus_attention(query, key, value, power=15.0)
    assert found.dtype == dtype
    assert softplus_weights(query, key).lssar.dtype == torch.float32
    torch.testing.assert_close(
        found.float(), softplus_attention(query.float(), key.float(), value.float(), power=15.0), rtol=2e-2, atol=2e-2
    )


@each("dtype", [torch.float32, torch.float64])
def test_rows_whose_keys_all_point_away_sum_to_1(dtype):
    key = torch.ones(64, 4096, dtype=dtype)
    query = (-key).requires_grad_()
    sums = softplus_weights(query, key).lssa.sum(dim=-1)
    torch.testing.assert_close(sums, torch.ones_like(sums))
    (slope,) = torch.autograd.grad(softplus_weights(query, key).lssa[-1, 0], query)
    assert bool(slope.isfinite().all())


def test_a_masked_row_is_0():
    mask = torch.zeros(6, 6, dtype=torch.bool)
    mask[1, 0] = True
    found = softplus_attention(QUERY, KEY, VALUE, mask)
    torch.testing.assert_close(found[..., 1, :], VALUE[..., 0, :])
    assert bool((found[..., 2:, :] == 0).all())


@each("attention", ["lssa", "lssar"])
def test_a_transformer_with_it_is_causal_and_learns(attention):
    torch.manual_seed(0)
    network = Transformer(9, context_length=8, width=16, depth=2, heads=2, attention=attention)
    tokens = torch.randint(9, (2, 8))
    changed = tokens.clone()
    changed[:, 5:] = 0
    torch.testing.assert_close(network(tokens)[:, :5], network(changed)[:, :5])
    packed = torch.tensor([[0] * 3 + [1] * 5] * 2)
    torch.testing.assert_close(network(tokens, documents=packed)[:, 3:], network(tokens[:, 3:]))
    network(tokens).square().sum().backward()
    assert all(bool((p.grad != 0).any()) for name, p in network.named_parameters() if "attention_in" in name)


@each("attention", ["lssa", "lssar"])
def test_a_cache_of_keys_changes_nothing(attention):
    torch.manual_seed(0)
    network = Transformer(9, context_length=8, width=16, depth=2, heads=2, attention=attention)
    tokens, cache = torch.randint(9, (2, 6)), network.empty_cache(batch=2, length=8)
    places = torch.arange(6).expand(2, 6)
    parts = [
        network(tokens[:, part], cache=cache, places=places[:, part]) for part in (slice(4), slice(4, 5), slice(5, 6))
    ]
    torch.testing.assert_close(torch.cat(parts, dim=1), network(tokens))


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="^transformer: qk_norm came with attention='lssar'"):
        Transformer(9, context_length=8, width=16, heads=2, attention="lssar", qk_norm=True)
    with pytest.raises(ValueError, match="^transformer: attention='linear' came"):
        Transformer(9, context_length=8, width=16, heads=2, attention="linear")
    with pytest.raises(ValueError, match="^softplus_attention: power=0.5 came"):
        softplus_attention(QUERY, KEY, VALUE, power=0.5)
    with pytest.raises(ValueError, match="^softplus_attention: query of shape"):
        softplus_attention(QUERY, KEY[..., :3, :], VALUE)
