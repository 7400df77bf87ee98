import re
from collections import Counter

import pytest
import torch
from torch import nn

from lightning_losses.decoding import generate
from lightning_losses.networks.transformer import Transformer

V = 11


@pytest.fixture
def network():
    torch.manual_seed(3)
    made = Transformer(vocabulary_size=V, context_length=24, width=12, depth=2, heads=3, qk_norm=True)
    for parameter in made.parameters():
        # Logits that differ, so that a wrong position or a stale key shows.
        parameter.data.mul_(8.0 if parameter.ndim > 1 else 1.0)
    return made


@pytest.fixture
def prompts():
    return torch.randint(V, (5, 6), generator=torch.Generator().manual_seed(1))


class Uncached(nn.Module):
    """The same network, that keeps nothing."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, tokens):
        return self.network(tokens)


class Bigram(nn.Module):
    """Logits of the next token by the last alone."""

    def __init__(self, table):
        super().__init__()
        self.table = table

    def forward(self, tokens):
        return self.table[tokens]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


LENGTHS = [None, [6, 1, 3, 6, 5], [2, 1, 3, 4, 4]]


@pytest.mark.parametrize("lengths", LENGTHS)
def test_cached_keys_give_what_reading_everything_gives(network, prompts, lengths):
    lengths = None if lengths is None else torch.tensor(lengths)
    cached, whole = (
        generate(net, prompts, 12, prompt_lengths=lengths, generator=seeded()) for net in (network, Uncached(network))
    )
    assert (cached.tokens == whole.tokens).all() and (cached.completion_mask == whole.completion_mask).all()
    torch.testing.assert_close(cached.logps, whole.logps)
    assert len(cached.tokens[cached.completion_mask].unique()) > 4


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("temperature", [1.0, 0.5, 0.0])
def test_a_training_pass_scores_the_drawn_tokens_alike(network, prompts, lengths, temperature):
    lengths = None if lengths is None else torch.tensor(lengths)
    drawn = generate(network, prompts, 9, prompt_lengths=lengths, temperature=temperature, generator=seeded())
    logits, target = network(drawn.tokens[:, :-1]), drawn.tokens[:, 1:].unsqueeze(-1)
    kept = drawn.completion_mask[:, 1:]
    own = logits.log_softmax(-1).gather(-1, target).squeeze(-1)
    torch.testing.assert_close(drawn.logps[:, 1:], own.where(kept, 0.0), rtol=1e-4, atol=1e-5)
    assert (kept.sum(1) == 9).all()
    if temperature:
        sampled = (logits / temperature).log_softmax(-1).gather(-1, target).squeeze(-1)
        torch.testing.assert_close(drawn.sampling_logps[:, 1:], sampled.where(kept, 0.0), rtol=1e-4, atol=1e-5)
    else:
        assert (target.squeeze(-1) == logits.argmax(-1))[kept].all() and (drawn.sampling_logps == 0).all()


def test_prompts_are_kept_and_rows_are_what_they_are_alone(network, prompts):
    lengths = torch.tensor([6, 1, 3, 6, 5])
    together = generate(network, prompts, 7, prompt_lengths=lengths, temperature=0)
    for row, length in enumerate(lengths.tolist()):
        alone = generate(network, prompts[row : row + 1, :length], 7, temperature=0)
        assert together.tokens[row, : length + 7].tolist() == alone.tokens[0].tolist()
        assert together.tokens[row, :length].tolist() == prompts[row, :length].tolist()
        assert together.completion_mask[row].nonzero().squeeze(-1).tolist() == list(range(length, length + 7))


def test_tokens_come_as_often_as_the_distribution_says():
    log_p = torch.tensor([0.5, 0.3, 0.15, 0.05, 0.0]).log()
    drawn = generate(Bigram(log_p.expand(5, 5)), torch.zeros(100, 1, dtype=torch.long), 100, generator=seeded())
    shares = torch.bincount(drawn.tokens[drawn.completion_mask], minlength=5) / 10_000
    # Four standard deviations of a share of 10 000 draws.
    assert ((shares - log_p.exp()).abs() <= 4 * (log_p.exp() * (1 - log_p.exp()) / 10_000).sqrt()).all()
    assert shares[4] == 0


def test_a_generator_decides_the_tokens_and_ends_in_the_same_state(network, prompts):
    first, second, other = seeded(4), seeded(4), seeded(5)
    torch.manual_seed(0)
    a = generate(network, prompts, 12, generator=first)
    state = torch.get_rng_state()
    torch.manual_seed(1)
    # Stopping early draws no fewer numbers, and changes no token before the stop.
    b = generate(network, prompts, 12, generator=second, stop_token=int(a.tokens[0, 8]))
    assert (first.get_state() == second.get_state()).all()
    assert (a.tokens == b.tokens)[b.completion_mask].all()
    assert (a.tokens != generate(network, prompts, 12, generator=other).tokens).any()
    torch.manual_seed(0)
    assert (torch.get_rng_state() == state).all()


def test_a_row_ends_with_the_stop_token(network, prompts):
    free = generate(network, prompts, 12, generator=seeded())
    stop = int(free.tokens[0, 8])
    drawn = generate(network, prompts, 12, generator=seeded(), stop_token=stop)
    for row, kept in zip(drawn.tokens, drawn.completion_mask, strict=True):
        completion = row[kept].tolist()
        assert stop not in completion[:-1] and (completion[-1] == stop or len(completion) == 12)
        assert (row[6 + len(completion) :] == stop).all()
    assert (drawn.logps[~drawn.completion_mask] == 0).all()
    assert len(set(drawn.completion_mask.sum(1).tolist())) > 1


def test_a_network_is_called_no_more_once_all_rows_ended():
    table, calls = torch.full((3, 3), -1e9), []
    table[:, 1] = 0
    network = Bigram(table)
    network.register_forward_hook(lambda *_: calls.append(1))
    drawn = generate(network, torch.zeros(2, 1, dtype=torch.long), 50, stop_token=1)
    assert len(calls) == 1 and drawn.tokens.shape == (2, 51) and drawn.completion_mask.sum() == 2


def test_processors_see_what_was_drawn_and_decide_what_may_be(network, prompts):
    lengths, seen = torch.tensor([6, 1, 3, 6, 5]), []

    def even(input_ids, scores):
        seen.append(input_ids)
        return scores.masked_fill(torch.arange(V) % 2 == 1, -torch.inf)

    drawn = generate(network, prompts, 4, prompt_lengths=lengths, processors=[even], generator=seeded(), stop_token=7)
    assert (drawn.tokens[drawn.completion_mask] % 2 == 0).all()
    kept = (network(drawn.tokens[:, :-1]).masked_fill(torch.arange(V) % 2 == 1, -torch.inf)).log_softmax(-1)
    expected = kept.gather(-1, drawn.tokens[:, 1:].unsqueeze(-1)).squeeze(-1).where(drawn.completion_mask[:, 1:], 0.0)
    torch.testing.assert_close(drawn.sampling_logps[:, 1:], expected, rtol=1e-4, atol=1e-5)
    for step, input_ids in enumerate(seen):
        assert input_ids.shape == (5, 6 + step)
        for row, length in enumerate((lengths + step).tolist()):
            assert input_ids[row, -length:].tolist() == drawn.tokens[row, :length].tolist()
            assert (input_ids[row, :-length] == 7).all()


def test_transformers_networks_and_processors_do(network, prompts):
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=V, n_positions=24, n_embd=12, n_layer=1, n_head=2)
    other = transformers.GPT2LMHeadModel(config).eval()
    processors = transformers.LogitsProcessorList([transformers.NoRepeatNGramLogitsProcessor(1)])
    ours = generate(other, prompts[:, :2], 6, temperature=0, processors=processors, stop_token=0)
    theirs = other.generate(
        prompts[:, :2],
        attention_mask=torch.ones_like(prompts[:, :2]),
        max_new_tokens=6,
        do_sample=False,
        no_repeat_ngram_size=1,
        eos_token_id=0,
        pad_token_id=0,
    )
    assert ours.tokens[:, : theirs.shape[1]].tolist() == theirs.tolist()
    assert max(Counter(ours.tokens[0][ours.completion_mask[0]].tolist()).values()) == 1


def test_mode_and_gradients_are_left_as_they_were(network, prompts):
    network.train()
    drawn = generate(network, prompts, 3)
    assert network.training and not drawn.logps.requires_grad
    assert all(parameter.grad is None for parameter in network.parameters())


def test_half_precision_is_drawn_from_in_single_and_double_in_double(network, prompts):
    drawn = generate(network.double(), prompts, 5, generator=seeded())
    own = network(drawn.tokens[:, :-1]).log_softmax(-1).gather(-1, drawn.tokens[:, 1:].unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(drawn.logps[:, 6:], own[:, 5:], rtol=1e-12, atol=1e-12)
    drawn = generate(network.bfloat16(), prompts, 5, generator=seeded())
    assert drawn.logps.dtype == torch.float32 and drawn.logps.isfinite().all()


def test_what_does_not_fit_is_refused(network, prompts):
    with pytest.raises(ValueError, match=r"prompts came as torch.int64 \[5, 0\]; give int64"):
        generate(network, prompts[:, :0], 2)
    with pytest.raises(ValueError, match="prompts came as list"):
        generate(network, [[1]], 2)
    with pytest.raises(ValueError, match="max_new_tokens=0"):
        generate(network, prompts, 0)
    with pytest.raises(ValueError, match="temperature=-1"):
        generate(network, prompts, 1, temperature=-1)
    for wrong in (-1, 1.0, [1, 2]):
        with pytest.raises(ValueError, match=re.escape(f"stop_token={wrong} came; give one token, a whole number")):
            generate(network, prompts, 1, stop_token=wrong)
    with pytest.raises(ValueError, match="give at most 25 tokens together"):
        generate(network, prompts, 20)
    assert generate(network, prompts, 19).tokens.shape == (5, 25)
    with pytest.raises(ValueError, match="give numbers from 1 to 6"):
        generate(network, prompts, 2, prompt_lengths=torch.tensor([0, 1, 1, 1, 1]))
    with pytest.raises(ValueError, match="for 5 prompts; give one whole number for each"):
        generate(network, prompts, 2, prompt_lengths=torch.tensor([1, 1]))
    with pytest.raises(ValueError, match="returned scores of shape"):
        generate(network, prompts, 2, processors=[lambda input_ids, scores: scores[:, 1:]])
    with pytest.raises(ValueError, match="no number above -inf"):
        generate(network, prompts, 2, processors=[lambda input_ids, scores: scores - torch.inf])
