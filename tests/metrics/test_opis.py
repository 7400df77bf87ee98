import itertools
import math

import pytest
import torch

from lightning_losses.metrics import embedding_rows
from lightning_losses.metrics.opis import opis

GENERATOR = torch.Generator().manual_seed(0)
TARGET = torch.tensor([0, 3, 3, 1, 0, 1, 1, 3, 5])
EMBEDDINGS = torch.randn(9, 3, dtype=torch.float64, generator=GENERATOR) + torch.eye(3).double()[TARGET % 3]


def by_definition(embeddings, target, thresholds, beta):
    unit = embeddings / embeddings.norm(dim=1, keepdim=True)
    pairs = [
        ((unit[i] - unit[j]).norm().item(), int(target[i]), int(target[j]))
        for i, j in itertools.combinations(range(len(unit)), 2)
    ]
    apart = sorted(distance for distance, a, b in pairs if a != b)
    low, high = (apart[math.ceil(share * len(apart)) - 1] for share in (0.1, 0.6))
    rows = []
    for c in [c for c in target.unique().tolist() if (target == c).sum() >= 2]:
        own = [d for d, a, b in pairs if a == c == b]
        other = [d for d, a, b in pairs if (a == c) != (b == c)]
        row = []
        for step in range(thresholds):
            # The range's ends are rounded up.
            at = low + (high - low) * step / (thresholds - 1) + 2e-6
            sens, spec = sum(d <= at for d in own) / len(own), sum(d > at for d in other) / len(other)
            row.append((1 + beta**2) * spec * sens / (beta**2 * spec + sens) if spec + sens else 0.0)
        rows.append(row)
    utility = torch.tensor(rows, dtype=torch.float64)
    each = (utility - utility.mean(dim=0)).square().mean(dim=1)
    return each.mean().item(), each.max().item()


@pytest.mark.parametrize("block", [1 << 22, 20], ids=["one block", "rows two by two"])
@pytest.mark.parametrize("beta", [1.0, 2.0])
def test_it_is_the_definition_in_blocks_of_any_size(monkeypatch, block, beta):
    monkeypatch.setattr(embedding_rows, "_BLOCK", block)
    measured = opis(EMBEDDINGS, TARGET, false_accepts=(0.1, 0.6), thresholds=7, beta=beta, worst_share=0.2)
    assert (measured.value.item(), measured.worst.item()) == pytest.approx(by_definition(EMBEDDINGS, TARGET, 7, beta))
    few = opis(EMBEDDINGS, TARGET, false_accepts=(0.1, 0.6), thresholds=7, beta=beta, worst_share=1e-12)
    assert few.worst == measured.worst
    # The class of one sample has no utility of its own.
    assert measured.classes.tolist() == [0, 1, 3]
    assert measured.utility.shape == (3, 7) and len(measured.thresholds) == 7


def test_equal_classes_have_none_and_a_loose_class_raises_it():
    turn = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64, generator=GENERATOR)).Q
    corners, target = torch.eye(4).double().repeat(3, 1), torch.arange(12) % 4
    noise = torch.randn(12, 4, dtype=torch.float64, generator=GENERATOR)
    # Each class has the same points, turned by a quarter.
    even = torch.stack([(corners[0] + 0.3 * noise[i // 4]).roll(i % 4) for i in range(12)])
    assert opis(even, target, thresholds=9).value == 0
    assert opis(3 * even @ turn, target, thresholds=9).value == 0
    loose = torch.where((target == 2).unsqueeze(1), even + noise, even)
    assert opis(loose, target, thresholds=9).value > 1e-3


def test_embeddings_that_are_no_numbers_give_none():
    measured = opis(EMBEDDINGS.index_fill(0, torch.tensor([2]), torch.nan), TARGET)
    assert measured.value.isnan() and measured.worst.isnan()


@pytest.mark.parametrize(
    ("embeddings", "target", "options", "message"),
    [
        (
            EMBEDDINGS,
            torch.zeros(9, dtype=torch.int64),
            {},
            "opis: 1 classes came, 1 of them with two samples or more; give at least two classes, and one of them with "
            "two samples.",
        ),
        (
            EMBEDDINGS,
            TARGET[:3],
            {},
            "opis: target came as torch.int64 [3] for 9 embeddings; give a class index for each.",
        ),
        (
            EMBEDDINGS[0],
            TARGET,
            {},
            "opis: embeddings of shape [3] came; give [samples, d], at least one of each.",
        ),
        (
            EMBEDDINGS,
            TARGET,
            {"false_accepts": (0.2, 0.1)},
            "opis: false_accepts[1]=0.1 came; give a number at least 0.2 and at most 1.",
        ),
    ],
    ids=["one class", "few classes", "vector", "range"],
)
def test_what_does_not_fit_is_refused(embeddings, target, options, message):
    with pytest.raises(ValueError) as error:
        opis(embeddings, target, **options)
    assert str(error.value) == message
