import pytest
import torch

from lightning_losses.samplers import (
    hardness_aware_prototype_sampling,
    hardness_probabilities,
    mean_similarity,
    prototype_radius,
)

# The first two are near each other, so they are the harder ones.
PROTOTYPES = torch.tensor([[2.0, 0.2, 0.0], [3.0, 0.0, 0.3], [0.0, 1.0, 0.0], [0.0, 0.0, 0.5]], dtype=torch.float64)


def test_similarity_and_chances_from_the_definition():
    cosines = [[float(torch.cosine_similarity(a, b, dim=0)) for b in PROTOTYPES] for a in PROTOTYPES.unbind()]
    wanted = [(sum(row) - 1) / 3 for row in cosines]
    assert mean_similarity(PROTOTYPES).tolist() == pytest.approx(wanted, rel=1e-12)
    weights = [pow(2.718281828459045, s / 0.2) for s in wanted]
    chances = hardness_probabilities(PROTOTYPES, 0.2)
    assert chances.tolist() == pytest.approx([w / sum(weights) for w in weights], rel=1e-12)
    assert hardness_probabilities(PROTOTYPES[:1]).tolist() == [1.0]


def test_draws_have_those_chances_and_that_spread_and_repeat_with_the_generator():
    def draw():
        return hardness_aware_prototype_sampling(
            PROTOTYPES, 20_000, 0.3, temperature=0.5, generator=torch.Generator().manual_seed(1)
        )

    drawn, again = draw(), draw()
    assert torch.equal(drawn.features, again.features) and torch.equal(drawn.target, again.target)
    shares = drawn.target.bincount(minlength=4) / 20_000
    torch.testing.assert_close(shares, hardness_probabilities(PROTOTYPES, 0.5).float(), rtol=0, atol=0.02)
    away = drawn.features - torch.nn.functional.normalize(PROTOTYPES, dim=1)[drawn.target]
    assert float(away.std()) == pytest.approx(0.3, rel=0.02)
    assert prototype_radius(drawn.features, drawn.target) == pytest.approx(0.3, rel=0.02)


def test_samples_without_a_label_do_not_widen_the_radius():
    features, target = torch.randn(6, 2), torch.tensor([0, 0, 1, 1, -100, -100])
    assert prototype_radius(features, target) == prototype_radius(features[:4], target[:4])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: mean_similarity(PROTOTYPES[0]),
            "hardness_aware_prototype_sampling: prototypes of shape [3] came; give [classes, d].",
        ),
        (
            lambda: hardness_aware_prototype_sampling(PROTOTYPES, 0, 0.1),
            "hardness_aware_prototype_sampling: samples=0 came; give a whole number of at least 1.",
        ),
        (
            lambda: prototype_radius(PROTOTYPES, torch.arange(4)),
            "prototype_radius: no class has two samples; give more, so that a spread can be measured.",
        ),
        (
            lambda: prototype_radius(PROTOTYPES, torch.arange(3)),
            "prototype_radius: features of shape [4, 3] came with a target of shape [3]; give [samples, d] and a class "
            "index for each.",
        ),
    ],
    ids=["shape", "samples", "single", "target"],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError) as error:
        call()
    assert str(error.value) == message
