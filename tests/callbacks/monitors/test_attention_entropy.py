"""The monitor of attention's entropy: its numbers from the weights, and its flags at both extremes."""

import math

import pytest
import torch

from lightning_losses.callbacks.monitors.attention_entropy import AttentionEntropy, attention_entropy
from lightning_losses.losses import CrossEntropy
from lightning_losses.modules.language_model import LanguageModel
from lightning_losses.networks.attention_calls import AttentionCall, attention_maps
from lightning_losses.networks.transformer import Transformer
from lightning_losses.objective import Objective

TOKENS = torch.randint(9, (3, 6), generator=torch.Generator().manual_seed(1))


def module(scale=1.0, **options):
    torch.manual_seed(0)
    network = Transformer(9, context_length=8, width=8, depth=2, heads=2, **options)
    with torch.no_grad():
        for block in network.blocks:
            block.attention_in.weight.mul_(scale)
    return LanguageModel(network, Objective({"ce": CrossEntropy()})).eval()


def measured(model, **options):
    return AttentionEntropy(**options).measure(None, model, TOKENS, TOKENS)


def test_entropies_are_those_of_the_maps():
    model = module(scale=20.0)
    with attention_maps(model.network) as maps, torch.no_grad():
        model.network(TOKENS)
    values = measured(model)
    for name, weights in maps.items():
        for head in range(2):
            # The first query sees one key.
            rows = weights[:, head, 1:].flatten(0, 1)
            want = sum(-p * math.log(p) for row in rows.tolist() for p in row if p > 0) / len(rows)
            assert values[f"network.{name}/head_{head}"] == pytest.approx(want, rel=1e-4)


def test_both_extremes_are_flagged():
    values = measured(module(scale=0.0))
    assert values["overloaded"] == 1 and values["collapsed"] == 0
    values = measured(module(scale=1e4))
    assert values["overloaded"] == 0 and values["collapsed"] > 0.5


def test_queries_that_see_nothing_leave_numbers():
    mask = torch.tensor([[True, False], [False, False]])
    entropy, most = attention_entropy(AttentionCall(torch.ones(1, 3, 2, 4), torch.ones(1, 3, 2, 4), mask))
    assert entropy.tolist() == [0.0] * 3 and most.tolist() == [0.0] * 3


def test_a_network_without_such_attention_is_refused():
    with pytest.raises(ValueError, match="^attention_entropy: the forward pass calls no scaled_dot_product_attention"):
        measured(module(attention="lssa"))
