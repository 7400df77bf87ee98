import pytest
import torch

from lightning_losses.networks.transformer import Transformer


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def network(request):
    return Transformer(vocabulary_size=11, context_length=8, width=12, depth=2, heads=3, tied=request.param)


def test_no_position_sees_what_comes_later(network):
    tokens = torch.randint(11, (2, 8))
    changed = tokens.clone()
    changed[:, 5] = (changed[:, 5] + 1) % 11
    before, after = network(tokens), network(changed)
    # The same products in the same order: equal but for how a kernel groups rows.
    torch.testing.assert_close(before[:, :5], after[:, :5], rtol=0, atol=1e-6)
    assert ((before[:, 5:] - after[:, 5:]).abs().amax(-1) > 1e-4).all()


def test_logits_are_the_heads_of_the_hidden_states(network):
    tokens = torch.randint(11, (2, 8))
    hidden, head = network(tokens, return_hidden=True), network.get_output_embeddings()
    torch.testing.assert_close(network(tokens), hidden @ head.weight.t())
    assert (head is network.tokens) == (network.head is None)


def test_first_logits_are_nearly_uniform(network):
    loss = torch.nn.functional.cross_entropy(network(torch.randint(11, (4, 8))).flatten(0, 1), torch.randint(11, (32,)))
    # Weights of deviation 0.02 make logits of about 0.02 sqrt(12).
    assert loss.item() == pytest.approx(torch.tensor(11.0).log().item(), abs=0.1)


def test_every_weight_gets_a_gradient(network):
    network(torch.randint(11, (2, 8))).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in network.parameters())


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"depth=1\.5 came; give a whole number of at least 1"):
        Transformer(9, 8, depth=1.5)
    with pytest.raises(ValueError, match="heads=5 came with width=12; give a divisor"):
        Transformer(11, 8, width=12, heads=5)
    with pytest.raises(ValueError, match="transformer: depth=0"):
        Transformer(11, 8, depth=0)
    with pytest.raises(ValueError, match="9 tokens came; give at most 8"):
        Transformer(11, 8, width=12)(torch.zeros(1, 9, dtype=torch.long))


def test_normalised_queries_and_keys_bound_the_attention_logits(monkeypatch):
    seen, attention = [], torch.nn.functional.scaled_dot_product_attention

    def watched(query, key, *given, **options):
        seen.append((query @ key.transpose(-2, -1)).abs().max() / query.shape[-1] ** 0.5)
        return attention(query, key, *given, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    tokens = torch.randint(11, (2, 8))
    for qk_norm in (False, True):
        network = Transformer(11, 8, width=12, depth=1, heads=3, qk_norm=qk_norm)
        network.blocks[0].attention_in.weight.data.mul_(1e4)
        network(tokens).square().sum().backward()
        assert all(parameter.grad.abs().sum() > 0 for name, parameter in network.named_parameters() if "norm" in name)
    # Both have length √4: at most 4 / √4.
    assert seen[0] > 100 > 2.001 > seen[1]
