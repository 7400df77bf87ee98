import pytest
import torch
from torch import nn

from lightning_losses.decoding import USCD, generate

V = 5


class Counts(nn.Module):
    """Logits by how often each token came so far."""

    def forward(self, tokens):
        return nn.functional.one_hot(tokens, V).float().cumsum(1) * 0.7


NETWORK, PROMPTS, LAME = Counts(), torch.tensor([[0, 1, 1], [2, 2, 2]]), torch.tensor([[0], [3]])


def test_the_contrast_is_the_formula_where_unsure():
    tokens = torch.cat([PROMPTS, torch.tensor([[4], [2]])], 1)
    scores = NETWORK(tokens)[:, -1]
    p, lame = scores.log_softmax(-1), NETWORK(torch.tensor([[0, 4], [3, 2]]))[:, -1].log_softmax(-1)
    spread = p.exp().std(-1, correction=0)
    uscd = USCD(NETWORK, LAME, prompt_length=3, threshold=spread.mean().item(), alpha=0.6, beta=0.3)
    result = uscd(tokens, scores)
    unsure = int(spread.argmin())
    assert uscd.contrasts[0].nonzero().flatten().tolist() == [unsure]
    assert (result[1 - unsure] == scores[1 - unsure]).all()
    plausible = p[unsure].exp() >= 0.3 * p[unsure].exp().max()
    expected = (1.6 * p[unsure] - 0.6 * lame[unsure]).masked_fill(~plausible, -torch.inf)
    assert 0 < plausible.sum() < V
    torch.testing.assert_close(result[unsure], expected)


def test_without_contrast_or_where_always_sure_nothing_changes():
    scores = NETWORK(PROMPTS)[:, -1]
    assert (USCD(NETWORK, LAME, 3, threshold=0.0)(PROMPTS, scores) == scores).all()
    same = USCD(NETWORK, LAME, 3, threshold=1.0, alpha=0.0, beta=0.0)(PROMPTS, scores)
    torch.testing.assert_close(same, scores.log_softmax(-1))


def test_the_lame_prompt_lets_the_completion_follow():
    uscd = USCD(NETWORK, LAME[:1], prompt_length=3, threshold=1.0)
    result = generate(NETWORK, PROMPTS, 6, processors=[uscd], generator=torch.Generator().manual_seed(0))
    assert result.completion_mask.sum() == 12 and len(uscd.contrasts) == 6


def test_what_the_lame_prompt_rules_out_stays_finite():
    certain = nn.Embedding.from_pretrained(torch.tensor([[0.0, -torch.inf]]).expand(2, 2).clone())
    result = USCD(certain, torch.tensor([[0]]), 1, threshold=1.0)(torch.tensor([[0]]), torch.zeros(1, 2))
    assert result.isfinite().all() and result.argmax() == 1


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="uscd: lame_prompts="):
        USCD(NETWORK, torch.zeros(2, 0, dtype=torch.long), 3)
    with pytest.raises(ValueError, match="beta=2"):
        USCD(NETWORK, LAME, 3, beta=2)
    with pytest.raises(ValueError, match="2 sequences of 2 tokens came; give as many as lame_prompts, 2, of at least"):
        USCD(NETWORK, LAME, 3)(PROMPTS[:, :2], torch.zeros(2, V))
