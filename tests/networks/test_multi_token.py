"""Heads for several tokens: on the trunk, with their own targets, in ours and in transformers' networks."""

import copy

import pytest
import torch
import torch.nn.functional as F
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from lightning_losses.data.language_batch import document_numbers, further_targets, language_batch
from lightning_losses.losses import EMO, CrossEntropy, Focal
from lightning_losses.modules.language_model import LanguageModel
from lightning_losses.networks.multi_token import multi_token_heads, multi_token_network, multi_token_transformer
from lightning_losses.networks.transformer import Transformer
from lightning_losses.networks.transformer_blocks import transformer_blocks
from lightning_losses.objective import Objective
from tests.each import each


def ours(predicted=3, **options):
    torch.manual_seed(0)
    settings = {"vocabulary_size": 11, "context_length": 8, "width": 12, "depth": 2, "heads": 2}
    return multi_token_transformer(predicted, **settings, **options)


def gpt2():
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=11,
            n_positions=8,
            n_embd=12,
            n_layer=2,
            n_head=2,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        )
    )


def llama():
    torch.manual_seed(0)
    sizes = {"hidden_size": 12, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=11, max_position_embeddings=8, **sizes))


def vary(network):
    """Heads that differ from the block that they are copies of."""
    with torch.no_grad():
        for parameter in multi_token_heads(network).parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


TOKENS = torch.randint(11, (2, 8), generator=torch.Generator().manual_seed(1))
BATCH = {"inputs": TOKENS[:, :-1], "target": TOKENS[:, 1:]}


def by_hand(network, inputs, target, predicted):
    """The sum over heads of cross-entropy, over the number of positions with a next token, with all logits."""
    network.eval()
    total = 0.0
    for step in range(predicted):
        logits = head_logits(network, inputs, step)[:, : inputs.shape[1] - step]
        total = total + F.cross_entropy(logits.flatten(0, 1), target[:, step:].flatten(), reduction="sum")
    return total / target.numel()


def head_logits(network, inputs, step):
    """The logits of a head: those of the network with that head's block as its last."""
    if step == 0:
        return network(inputs)
    twin = copy.deepcopy(network)
    twin.blocks[-1] = twin.multi_token_heads.blocks[step - 1]
    return twin(inputs)


@each("recompute", [True, False])
@each("impl", ["reference", "chunked"])
def test_the_loss_is_the_sum_over_the_heads(recompute, impl):
    network = vary(ours(recompute=recompute))
    want = by_hand(copy.deepcopy(network), BATCH["inputs"], BATCH["target"], 3)
    model = LanguageModel(network, Objective({"ce": CrossEntropy()}), impl=impl)
    torch.testing.assert_close(model.training_step(BATCH, 0)["loss"], want)


@each("recompute", [True, False])
def test_every_parameter_gets_the_gradient_of_that_sum(recompute):
    network = vary(ours(recompute=recompute))
    plain = copy.deepcopy(network)
    model = LanguageModel(network, Objective({"ce": CrossEntropy()}), impl="chunked")
    model.training_step(BATCH, 0)["loss"].backward()
    # Each head's logits, from the trunk by hand.
    trunk = plain.tokens(BATCH["inputs"]) + plain.positions(torch.arange(7))
    trunk = plain.blocks[0](trunk)
    total = 0.0
    for step, block in enumerate([plain.blocks[1], *plain.multi_token_heads.blocks]):
        logits = F.linear(plain.norm(block(trunk)), plain.tokens.weight)[:, : 7 - step]
        total = total + F.cross_entropy(logits.flatten(0, 1), BATCH["target"][:, step:].flatten(), reduction="sum")
    (total / 14).backward()
    want = {name: parameter.grad for name, parameter in plain.named_parameters()}
    found = {name: parameter.grad for name, parameter in network.named_parameters()}
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-6)


def test_the_network_stays_what_it_was():
    plain = Transformer(11, context_length=8, width=12, depth=2, heads=2)
    twin = copy.deepcopy(plain)
    network = multi_token_network(plain, 4)
    torch.testing.assert_close(network(TOKENS), twin(TOKENS), rtol=0, atol=0)
    assert network is plain and len(network.multi_token_heads.blocks) == 3
    assert list(transformer_blocks("test", network)) == ["blocks.0", "blocks.1"]
    own = set(twin.state_dict())
    assert {name.split(".")[0] for name in set(network.state_dict()) - own} == {"multi_token_heads"}
    # A copy's heads belong to the copy's trunk.
    other = copy.deepcopy(network)
    assert other.multi_token_heads.__dict__["_shared"][0] is other.blocks[-1]


def test_evaluation_is_of_the_next_token():
    model = LanguageModel(vary(ours()), Objective({"ce": CrossEntropy()})).eval()
    torch.testing.assert_close(model(TOKENS), model.network(TOKENS))


@pytest.mark.parametrize("make", [gpt2, llama])
def test_networks_of_transformers_get_heads_on_their_trunk(make):
    network = vary(multi_token_network(make(), 2))
    batch = {"input_ids": TOKENS, "labels": TOKENS.clone()}
    model = LanguageModel(network, Objective({"ce": CrossEntropy()}))
    loss = model.training_step(batch, 0)["loss"]
    loss.backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    twin = copy.deepcopy(network).eval()
    first = twin(TOKENS).logits
    layers = twin.transformer.h if hasattr(twin, "transformer") else twin.model.layers
    layers[-1] = twin.multi_token_heads.blocks[0]
    second = twin(TOKENS, use_cache=False).logits
    want = F.cross_entropy(first[:, :-1].flatten(0, 1), TOKENS[:, 1:].flatten(), reduction="sum")
    want = want + F.cross_entropy(second[:, :-2].flatten(0, 1), TOKENS[:, 2:].flatten(), reduction="sum")
    torch.testing.assert_close(loss, want / 14, rtol=1e-5, atol=1e-5)


def test_other_row_wise_terms_are_summed_over_the_heads_too():
    network = vary(ours())
    values = {}
    for name, loss in {"focal": Focal(), "emo": EMO("emo2")}.items():
        model = LanguageModel(network, Objective({name: loss}), impl="chunked")
        values[name] = model.training_step(BATCH, 0)["loss"].item()
        _, every = model.run_network(BATCH, language_batch("test", network, BATCH))
        logits = F.linear(every["hidden"], network.tokens.weight)
        loss.reduction = "sum"
        given = {"cost_embedding": network.tokens.weight} if name == "emo" else {}
        assert values[name] == pytest.approx(float(loss(logits, every["target"], **given).detach()) / 14, rel=1e-5)


def test_targets_end_with_their_row_and_their_document():
    target = torch.tensor([[1, 2, 3, -100, 5, 6]])
    documents = torch.tensor([[0, 0, 0, 0, 1, 1]])
    want = [[1, 2, 3, -100, 5, 6], [2, 3, -100, -100, 6, -100], [3, -100, -100, -100, -100, -100]]
    assert further_targets(target, 3, documents=documents)[:, 0].tolist() == want
    assert further_targets(target, 3)[1, 0].tolist() == [2, 3, -100, 5, 6, -100]
    assert further_targets(target[:, :1], 3)[:, 0].tolist() == [[1], [-100], [-100]]
    assert further_targets(target, 2, ignore_index=7)[1, 0, -1] == 7
    given = language_batch("test", gpt2(), {"inputs": target, "target": target, "documents": documents})
    assert document_numbers({}, given).tolist() == [[1, 1, 1, 1, 2, 2]]


def test_packed_documents_have_the_loss_that_they_have_alone():
    network = vary(ours())
    model = LanguageModel(network, Objective({"ce": CrossEntropy()}))
    rows = [TOKENS[0, :5], TOKENS[1, :3]]
    alone = sum(
        model.training_step({"inputs": row[None, :-1], "target": row[None, 1:]}, 0)["loss"] * (len(row) - 1)
        for row in rows
    )
    inputs = torch.cat(rows).unsqueeze(0)
    target = torch.cat([torch.cat([row[1:], torch.tensor([-100])]) for row in rows]).unsqueeze(0)
    packed = {"inputs": inputs, "target": target, "documents": torch.tensor([[0] * 5 + [1] * 3])}
    torch.testing.assert_close(model.training_step(packed, 0)["loss"] * 6, alone)


def test_one_head_s_activations_are_held_at_a_time():
    held = {}
    for recompute in (True, False):
        network, sizes = ours(predicted=4, recompute=recompute), []
        with network.multi_token_heads.recording():
            hidden = network(TOKENS, return_hidden=True)

        def pack(tensor, sizes=sizes):
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            network.multi_token_heads.further_hidden(hidden)
        held[recompute] = sum(sizes)
    assert held[True] < held[False] / 5


def test_what_can_not_be_is_refused():
    with pytest.raises(ValueError, match="^multi_token_network: predicted=1 came"):
        ours(predicted=1)
    with pytest.raises(ValueError, match=r"^multi_token_network: predicted=2\.7 came; give a whole number"):
        ours(predicted=2.7)
    with pytest.raises(ValueError, match="^multi_token_network: the network has multi_token_heads already"):
        multi_token_network(ours(), 2)
    with pytest.raises(ValueError, match="^multi_token_network: Linear has no list of modules"):
        multi_token_network(torch.nn.Linear(2, 2), 2)
    network = multi_token_network(Transformer(11, 8, width=12, depth=2, heads=2), 2, norm="blocks.0.attention_norm")
    with pytest.raises(
        ValueError, match="^multi_token_network: the head's input is not what the network's normalisation"
    ):
        LanguageModel(network, Objective({"ce": CrossEntropy()})).training_step(BATCH, 0)
    with pytest.raises(ValueError, match="^multi_token_network: the network did not run its last block"):
        ours().multi_token_heads.further_hidden(torch.zeros(1, 2, 12))
