import pytest
import torch

from lightning_losses import ProtoTriplet
from tests.losses.contrastive.cases import classed


@pytest.mark.parametrize("shots", [1, 2])
def test_it_is_the_mean_over_queries(shots):
    embeddings, target = classed(seed=2)
    members = {c: [i for i in range(12) if target[i] == c] for c in range(3)}
    prototypes = {c: embeddings[rows[:shots]].mean(dim=0) for c, rows in members.items()}
    values = []
    for c, rows in members.items():
        for i in rows[shots:]:
            far = {other: (embeddings[i] - prototypes[other]).square().sum().add(1e-6).sqrt() for other in members}
            nearest = min(distance for other, distance in far.items() if other != c)
            values.append(torch.relu(far[c] - nearest + 0.5))
    assert sum(bool(value > 0) for value in values) > 1
    torch.testing.assert_close(ProtoTriplet(shots)(embeddings, target), torch.stack(values).mean())


@pytest.mark.parametrize("target", [[0, 0, 0], [0, 1, 2]], ids=["one class", "no query"])
def test_without_anything_to_compare_it_is_0(target):
    assert ProtoTriplet()(classed(samples=3)[0], torch.tensor(target)) == 0


def test_a_common_offset_costs_no_digits():
    embeddings, target = torch.randn(30, 8) + 100, torch.arange(30) % 5
    torch.testing.assert_close(
        ProtoTriplet(shots=2)(embeddings, target).double(),
        ProtoTriplet(shots=2)(embeddings.double(), target),
        rtol=1e-5,
        atol=0.0,
    )
