import math

import pytest
import torch
from torch import nn

from lightning_losses.decoding import Mirostat, MirostatV2, generate
from lightning_losses.decoding.mirostat import power_law_exponent, surprise_count


class Zipf(nn.Module):
    """The same power law after every token."""

    def __init__(self, size, exponent):
        super().__init__()
        self.log_p = (torch.arange(1, size + 1, dtype=torch.float64) ** -exponent).log().log_softmax(-1)

    def forward(self, tokens):
        return self.log_p.expand(*tokens.shape, -1)


def exponent_by_hand(p, candidates):
    numerator = denominator = 0.0
    for i in range(min(candidates, len(p) - 1)):
        t = math.log((i + 2) / (i + 1))
        numerator += t * math.log(p[i] / p[i + 1])
        denominator += t * t
    return numerator / denominator


def test_the_exponent_is_the_least_squares_fit_of_the_ratios():
    p = torch.rand(300, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).sort(descending=True).values
    assert power_law_exponent(-p[:101].log2()).item() == pytest.approx(exponent_by_hand(p.tolist(), 100), rel=1e-12)
    law = torch.arange(1, 50, dtype=torch.float64).log2() * 1.3
    assert power_law_exponent(law).item() == pytest.approx(1.3, rel=1e-12)


@pytest.mark.parametrize("s", [0.4, 0.9, 1.0, 1.1, 2.5])
@pytest.mark.parametrize("maximum", [0.5, 3.0, 8.0])
def test_the_count_is_the_formulas_and_continuous_at_exponent_1(s, maximum):
    given = torch.tensor(s, dtype=torch.float64), torch.tensor(maximum, dtype=torch.float64)
    near = 1 + 1e-7 if s == 1 else s
    expected = ((near - 1) * 2**maximum / (1 - 50_000 ** (1 - near))) ** (1 / near)
    assert surprise_count(*given, 50_000).item() == min(round(expected), 50_000)


@pytest.mark.parametrize("kind", [Mirostat, MirostatV2])
@pytest.mark.parametrize("target", [3.0, 4.0, 5.0])
def test_the_mean_surprise_goes_to_the_target(kind, target):
    mirostat = kind(target_surprise=target, learning_rate=0.2)
    source = Zipf(2000, exponent=1.1)
    drawn = generate(
        source,
        torch.zeros(16, 1, dtype=torch.long),
        300,
        processors=[mirostat],
        generator=torch.Generator().manual_seed(0),
    )
    surprise = -drawn.logps[:, 1:] / math.log(2)
    assert surprise[:, 50:].mean().item() == pytest.approx(target, abs=0.1)
    # What it says of itself is what was drawn, but for the last token.
    torch.testing.assert_close(torch.stack(mirostat.surprises, 1).to(surprise), surprise[:, :-1], atol=1e-4, rtol=1e-4)
    free = generate(source, torch.zeros(16, 1, dtype=torch.long), 300, generator=torch.Generator().manual_seed(0))
    assert abs(-free.logps[:, 1:].mean().item() / math.log(2) - target) > 0.5


def test_version_1_keeps_the_count_most_probable_and_moves_its_bound():
    scores = torch.randn(2, 300, generator=torch.Generator().manual_seed(1)) * 2
    mirostat, tokens = Mirostat(target_surprise=2.0, learning_rate=0.7), torch.tensor([[5], [6]])
    bound = torch.full((2,), 4.0, dtype=torch.float64)
    for _ in range(4):
        kept = mirostat(tokens, scores)
        surprise = -scores.double().log_softmax(-1) / math.log(2)
        for row in range(2):
            p = (2 ** -surprise[row]).sort(descending=True).values.tolist()
            s = exponent_by_hand(p, 100)
            k = round(((s - 1) * 2 ** bound[row].item() / (1 - 300 ** (1 - s))) ** (1 / s)) + 1
            best = scores[row].topk(k).indices
            assert set(kept[row].isfinite().nonzero().flatten().tolist()) == set(best.tolist())
            assert (kept[row, best] == scores[row, best]).all()
        token = kept.argmax(-1, keepdim=True)
        bound = bound - 0.7 * (surprise.gather(1, token).squeeze(1) - 2.0)
        tokens = torch.cat([tokens, token], 1)


def test_version_2_keeps_what_the_bound_allows():
    scores = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log()
    assert MirostatV2(target_surprise=1.2)(torch.tensor([[0]]), scores).isfinite().tolist() == [
        [True, True, False, False]
    ]
    # Nothing is below the bound: the most probable stays.
    mirostat = MirostatV2(target_surprise=0.1)
    assert mirostat(torch.tensor([[0]]), scores).isfinite().sum() == 1


@pytest.mark.parametrize("kind", [Mirostat, MirostatV2])
def test_other_sequences_begin_anew(kind):
    scores, first = torch.randn(1, 40, generator=torch.Generator().manual_seed(2)), torch.tensor([[1, 2]])
    mirostat = kind(target_surprise=1.0)
    begun = mirostat(first, scores)
    mirostat(torch.tensor([[1, 2, int(begun.argmin())]]), scores)
    assert len(mirostat.surprises) == 1
    again = mirostat(torch.tensor([[7, 2, 3, 4]]), scores)
    assert mirostat.surprises == [] and (again == begun).all()


@pytest.mark.parametrize("kind", [Mirostat, MirostatV2])
@pytest.mark.parametrize(
    "scores",
    [
        torch.zeros(1, 2),
        torch.zeros(1, 1),
        torch.tensor([[0.0, -torch.inf, -torch.inf]]),
        torch.tensor([[1e30, 0.0, -1e30]]),
        torch.zeros(1, 5000),
        torch.zeros(1, 7).bfloat16(),
    ],
    ids=["two", "one", "certain", "extreme", "flat", "half"],
)
def test_any_scores_leave_a_distribution(kind, scores):
    mirostat, tokens = kind(target_surprise=0.5), torch.tensor([[0]])
    for _ in range(5):
        kept = mirostat(tokens, scores)
        assert kept.dtype == scores.dtype and kept.log_softmax(-1).isnan().sum() == 0
        assert kept.isfinite().any(-1).all()
        tokens = torch.cat([tokens, kept.argmax(-1, keepdim=True)], 1)


def test_settings_outside_their_ranges_are_refused():
    with pytest.raises(ValueError, match="mirostat: target_surprise=0 came; give a number above 0"):
        Mirostat(target_surprise=0)
    with pytest.raises(ValueError, match="mirostat_v2: learning_rate=-1"):
        MirostatV2(learning_rate=-1)
    with pytest.raises(ValueError, match="mirostat: candidates=0"):
        Mirostat(candidates=0)
