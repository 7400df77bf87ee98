"""Attention weights as the network used them, by layer, with gradients; its output stays."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from lightning_losses.networks.attention_calls import AttentionCall, attention_maps
from lightning_losses.networks.transformer import Transformer


def test_maps_are_the_weights_that_the_layer_used():
    torch.manual_seed(0)
    network = Transformer(9, context_length=8, width=8, depth=2, heads=2)
    tokens = torch.randint(9, (3, 5))
    with attention_maps(network) as maps:
        logits = network(tokens)
    torch.testing.assert_close(logits, network(tokens), rtol=0, atol=0)
    assert list(maps) == ["blocks.0", "blocks.1"]
    block, hidden = network.blocks[0], network.tokens(tokens) + network.positions(torch.arange(5))
    value = block.attention_in(block.attention_norm(hidden)).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)[2]
    mixed = (maps["blocks.0"] @ value).transpose(1, 2).flatten(2)
    after = hidden + block.attention_out(mixed)
    want = after + block.perceptron_out(torch.nn.functional.gelu(block.perceptron_in(block.perceptron_norm(after))))
    torch.testing.assert_close(block(hidden), want)
    (slope,) = torch.autograd.grad(maps["blocks.1"].square().sum(), block.attention_in.weight)
    assert float(slope.abs().max()) > 0


def test_packed_rows_and_transformers_networks_too():
    torch.manual_seed(0)
    network = Transformer(9, context_length=8, width=8, depth=1, heads=2)
    documents = torch.tensor([[0, 0, 1, 1, 1]])
    with attention_maps(network) as maps:
        network(torch.zeros(1, 5, dtype=torch.int64), documents=documents)
    assert bool((maps["blocks.0"][..., 2:, :2] == 0).all())
    other = GPT2LMHeadModel(GPT2Config(vocab_size=9, n_positions=8, n_embd=8, n_layer=2, n_head=2)).eval()
    with attention_maps(other) as maps:
        other(torch.zeros(1, 5, dtype=torch.int64))
    assert [tuple(weights.shape) for weights in maps.values()] == [(1, 2, 5, 5)] * 2
    eager = other.set_attn_implementation("eager") or other
    want = eager(torch.zeros(1, 5, dtype=torch.int64), output_attentions=True).attentions
    torch.testing.assert_close(list(maps.values()), list(want))


def test_a_query_of_padding_at_the_left_attends_to_nothing():
    torch.manual_seed(0)
    network = LlamaForCausalLM(
        LlamaConfig(vocab_size=9, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    )
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    with attention_maps(network) as maps:
        network(input_ids=torch.ones(2, 4, dtype=torch.int64), attention_mask=mask)
    (weights,) = maps.values()
    torch.testing.assert_close(weights.sum(dim=-1), mask[:, None].float().expand(2, 2, 4))
    (slope,) = torch.autograd.grad(weights.square().sum(), network.model.embed_tokens.weight)
    assert bool(slope.isfinite().all())


def test_hooks_are_gone_after_an_error():
    network = Transformer(9, context_length=8, width=8, depth=1, heads=2)
    with pytest.raises(ValueError, match="9 tokens came"), attention_maps(network):
        network(torch.zeros(1, 9, dtype=torch.int64))
    assert all(not part._forward_hooks and not part._forward_pre_hooks for part in network.modules())


def test_a_scale_and_an_added_mask_count():
    query = torch.randn(1, 1, 3, 4)
    added = torch.tensor([[0.0, -1.0, -torch.inf]]).expand(3, 3)
    logits = AttentionCall(query, query, added, scale=2.0).logits()
    torch.testing.assert_close(logits, 2 * query @ query.transpose(-2, -1) + added)


def test_autocast_around_a_network_does_not_round_what_is_recorded():
    query = torch.randn(1, 2, 4, 8)
    call = AttentionCall(query, query)
    with torch.autocast("cpu", torch.bfloat16):
        logits = call.logits()
    torch.testing.assert_close(logits, call.logits())
