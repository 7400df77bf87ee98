import math

import pytest
import torch
from torch import nn

from lightning_losses.decoding import EntropyAdaptiveDecoding, generate

V = 6


@pytest.fixture
def networks():
    """Bigrams: the small one is sure after tokens 0 to 2, the large one after all."""
    torch.manual_seed(0)
    small = torch.zeros(V, V)
    small[:3] = torch.eye(V)[[1, 2, 3]] * 9
    return nn.Embedding.from_pretrained(small), nn.Embedding.from_pretrained(torch.randn(V, V) * 3)


def entropy(scores):
    p = scores.softmax(-1)
    return -(p * p.log2()).sum(-1).item()


def drawn(small, decoding, length=60, rows=3):
    prompts = torch.randint(V, (rows, 2), generator=torch.Generator().manual_seed(1))
    return generate(small, prompts, length, processors=[decoding], generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(("threshold", "share"), [(1e6, 0.0), (-1.0, 1.0)])
def test_extreme_thresholds_use_one_network(networks, threshold, share):
    small, large = networks
    decoding = EntropyAdaptiveDecoding(large, threshold=threshold, window=3, least_tokens=4)
    result = drawn(small, decoding)
    assert decoding.large_share() == share
    used = (large if share else small)(result.tokens[:, 1:-1]).log_softmax(-1)
    expected = used.gather(-1, result.tokens[:, 2:].unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(result.sampling_logps[:, 2:], expected)


def test_each_row_follows_the_rule(networks):
    small, large = networks
    window, least, threshold = 3, 4, 1.2
    decoding = EntropyAdaptiveDecoding(large, threshold=threshold, window=window, least_tokens=least)
    result = drawn(small, decoding)
    uses = torch.stack(decoding.uses_large, 1)
    for row in range(len(uses)):
        active, since, entropies = False, least, []
        for step in range(60):
            last = result.tokens[row, 1 + step]
            entropies = [*entropies, entropy((large if active else small)(last))][-window:]
            wanted = sum(entropies) / len(entropies) > threshold
            if since >= least and wanted != active:
                active, since = wanted, 0
            since += 1
            assert uses[row, step].item() == active
        switches = (uses[row, 1:] != uses[row, :-1]).nonzero().flatten()
        assert len(switches) > 2 and (switches.diff() >= least).all()


def test_the_large_network_is_read_where_it_is_asked_alone(networks):
    small, large = networks
    calls = []
    large.register_forward_hook(lambda *_: calls.append(1))
    decoding = EntropyAdaptiveDecoding(large, threshold=1e6)
    drawn(small, decoding)
    assert calls == []
    EntropyAdaptiveDecoding(large, threshold=-1.0)(torch.tensor([[0]]), small(torch.tensor([0])))
    assert len(calls) == 1


def test_left_padding_is_not_read(networks):
    class Running(nn.Module):
        """Logits by the mean of all tokens so far."""

        def forward(self, tokens):
            scores = nn.functional.one_hot(tokens, V).float().cumsum(1)
            return scores / scores.sum(-1, keepdim=True)

    decoding = EntropyAdaptiveDecoding(Running(), threshold=-1.0, pad_token=5)
    rows = torch.tensor([[5, 5, 1, 2], [1, 2, 3, 4]])
    scores = decoding(rows, torch.zeros(2, V))
    alone = Running()(torch.tensor([[1, 2]]))[0, -1]
    assert (scores[0] == alone).all() and scores[1, 5] == 0


def test_other_sequences_begin_with_the_small_network(networks):
    small, large = networks
    decoding = EntropyAdaptiveDecoding(large, threshold=0.5, least_tokens=50)
    decoding(torch.tensor([[4]]), small(torch.tensor([4])))
    assert decoding.large_share() == 1.0
    decoding(torch.tensor([[0]]), small(torch.tensor([0])))
    assert decoding.large_share() == 0.0 and len(decoding.uses_large) == 1


def test_what_does_not_fit_is_refused(networks):
    _, large = networks
    with pytest.raises(ValueError, match="threshold=nan came; give a finite number"):
        EntropyAdaptiveDecoding(large, threshold=math.nan)
    with pytest.raises(ValueError, match="gives 6 logits, the small one 7; give networks of one vocabulary"):
        EntropyAdaptiveDecoding(large, threshold=-1.0)(torch.tensor([[0]]), torch.zeros(1, 7))
