import math

import pytest
import torch
from torch.distributions import Dirichlet, kl_divergence

from lightning_losses.losses import EvidentialClassification
from lightning_losses.losses.classification.evidential_classification import dirichlet_vacuity

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = 3 * torch.randn(4, 5, dtype=torch.float64, generator=GENERATOR)
TARGET = torch.tensor([0, 3, 4, 1])
ALPHA = LOGITS.clamp(min=0) + 1


def rows(**options):
    progress = options.pop("progress", 0.0)
    return EvidentialClassification(reduction="none", **options)(LOGITS, TARGET, progress=progress)


@pytest.mark.parametrize("form", ["mse", "log", "digamma"])
def test_the_data_term_is_an_expectation_over_the_dirichlet(form):
    drawn = torch._standard_gamma(ALPHA.expand(20_000, -1, -1), generator=GENERATOR)
    p = drawn / drawn.sum(dim=-1, keepdim=True)
    chosen = p.gather(-1, TARGET.expand(20_000, -1).unsqueeze(-1)).squeeze(-1)
    brier = (torch.nn.functional.one_hot(TARGET, 5) - p).square().sum(dim=-1)
    expected = {"mse": brier.mean(0), "log": -chosen.mean(0).log(), "digamma": -chosen.log().mean(0)}[form]
    torch.testing.assert_close(rows(form=form), expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("activation", ["relu", "softplus", "exp"])
def test_the_divergence_grows_with_progress(activation):
    evidence = {"relu": torch.relu, "softplus": torch.nn.functional.softplus, "exp": lambda z: z.clamp(-10, 10).exp()}
    alpha = (evidence[activation](LOGITS) + 1).scatter(-1, TARGET[:, None], 1.0)
    kl = kl_divergence(Dirichlet(alpha), Dirichlet(torch.ones_like(alpha)))
    assert bool((kl >= 0).all())
    without = rows(activation=activation, annealing=0.2)
    for progress, weight in ((0.05, 0.25), (0.2, 1.0), (0.9, 1.0)):
        torch.testing.assert_close(rows(activation=activation, annealing=0.2, progress=progress), without + weight * kl)
    torch.testing.assert_close(rows(activation=activation, annealing=0.0), without + kl)
    as_tensor = rows(activation=activation, annealing=0.2, progress=torch.tensor(0.05).double())
    torch.testing.assert_close(as_tensor, without + 0.25 * kl)


def test_without_evidence_nothing_is_known():
    nothing = -torch.ones(1, 5)
    assert EvidentialClassification("log")(nothing, TARGET[:1], progress=1.0).item() == pytest.approx(math.log(5))
    assert dirichlet_vacuity(nothing).item() == 1
    torch.testing.assert_close(dirichlet_vacuity(LOGITS), 5 / ALPHA.sum(dim=-1))
    # A sum of float16 would be infinite.
    assert dirichlet_vacuity(torch.full((5,), 6e4).half()).item() == pytest.approx(1 / 6e4, rel=1e-3)


def test_digamma_is_at_least_log():
    assert bool((rows(form="digamma") >= rows(form="log")).all())


@pytest.mark.parametrize("progress", [-0.1, 1.5, None])
def test_progress_is_a_share(progress):
    with pytest.raises(ValueError) as caught:
        EvidentialClassification()(LOGITS, TARGET, progress=progress)
    assert str(caught.value) == (
        f"evidential_classification: progress={progress!r} came; give a number at least 0 and at most 1."
    )
