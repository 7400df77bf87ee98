import math

import numpy as np
import pytest
import torch
from scipy.special import betaln

from lightning_losses.calibrators import BayesianBinning


def expected(score, outcome, query, concentration=2.0):
    """The average over binnings, from the formula, bin by bin; for scores without ties."""
    order = np.argsort(score)
    score, outcome = score[order], outcome[order]
    count = len(score)
    fewest = max(1, math.floor(count ** (1 / 3) / 10))
    most = min(math.ceil(count / 5), math.ceil(10 * count ** (1 / 3)))
    evidences, predictions = [], []
    for bins in range(fewest, most + 1):
        ends = [-(-step * count // bins) for step in range(bins + 1)]
        edges = [0.0, *((score[end - 1] + score[end]) / 2 for end in ends[1:-1]), 1.0]
        evidence, values = 0.0, []
        for b in range(bins):
            part = outcome[ends[b] : ends[b + 1]]
            centre = min(max((edges[b] + edges[b + 1]) / 2, 0.005), 0.995)
            prior = concentration * centre, concentration * (1 - centre)
            true, false = part.sum(), len(part) - part.sum()
            evidence += betaln(true + prior[0], false + prior[1]) - betaln(*prior)
            values.append((true + prior[0]) / (len(part) + concentration))
        evidences.append(evidence)
        place = np.searchsorted(edges[1:-1], query)
        predictions.append(np.array(values)[place])
    weights = np.exp(np.array(evidences) - max(evidences))
    return (weights[:, None] * np.array(predictions)).sum(0) / weights.sum()


@pytest.mark.parametrize("concentration", [0.5, 2.0])
@pytest.mark.parametrize("count", [7, 40, 300])
def test_it_is_the_average_of_the_formula(count, concentration):
    random = np.random.default_rng(count)
    logit = 3 * random.standard_normal(count)
    outcome = (random.random(count) < 1 / (1 + np.exp(-logit / 3))).astype(float)
    query = np.linspace(-9, 9, 101)
    calibrator = BayesianBinning(concentration).fit(torch.tensor(logit), torch.tensor(outcome).long())
    found = torch.sigmoid(calibrator(torch.tensor(query))).numpy()
    by_formula = expected(1 / (1 + np.exp(-logit)), outcome, 1 / (1 + np.exp(-query)), concentration)
    # Binnings below 1e-10 of the best one's weight are left out.
    np.testing.assert_allclose(found, by_formula, rtol=0, atol=1e-8)


def test_the_root_of_the_samples_is_exact(monkeypatch):
    seen = []
    one = torch.zeros(0).double(), torch.ones(1).double(), torch.zeros(()).double()
    monkeypatch.setattr(BayesianBinning, "_binning", lambda self, score, true, bins: seen.append(bins) or one)
    BayesianBinning().fit(torch.randn(8000), torch.zeros(8000, dtype=torch.int64))
    assert (min(seen), max(seen)) == (2, 200)


def test_equal_scores_share_a_bin():
    score = torch.tensor([0.3]).repeat(30).double()
    calibrator = BayesianBinning().fit(score, (torch.arange(30) % 3 == 0).long())
    probability = torch.sigmoid(calibrator(torch.tensor([-5.0, 0.3, 5.0], dtype=torch.float64)))
    # One bin whatever their number, whose prior's mean is 1/2.
    torch.testing.assert_close(probability, torch.full((3,), 11 / 32, dtype=torch.float64))


def test_samples_that_follow_their_scores_want_many_bins_and_coins_one():
    generator = torch.Generator().manual_seed(0)
    score = 4 * torch.randn(2000, generator=generator)
    uniform = torch.rand(2000, generator=generator)
    following = BayesianBinning().fit(score, (uniform < torch.sigmoid(score)).long())
    coins = BayesianBinning().fit(score, (uniform < 0.5).long())
    assert following.edges.shape[-1] > 4
    assert torch.sigmoid(coins(torch.linspace(-8, 8, 50))).std() < 0.02


def test_other_concentrations_are_refused():
    with pytest.raises(ValueError, match=r"BayesianBinning: .*concentration"):
        BayesianBinning(0.0)
