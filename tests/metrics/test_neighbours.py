import pytest
import torch

from lightning_losses.metrics import class_retrieval, embedding_rows, opis, tolerance
from lightning_losses.metrics.neighbours import knn_accuracy, nearest_class_mean_accuracy

GENERATOR = torch.Generator().manual_seed(0)
CENTRES = torch.randn(4, 5, dtype=torch.float64, generator=GENERATOR)
TARGET = torch.tensor([0, 1, 2, 7] * 4)[:15]
EMBEDDINGS = CENTRES[TARGET % 4] + torch.randn(15, 5, dtype=torch.float64, generator=GENERATOR)
ASKED = torch.tensor([0, 7, 2, 1, 3, 7, 0, 0])
QUERIES = CENTRES[ASKED % 4] + torch.randn(8, 5, dtype=torch.float64, generator=GENERATOR)


def unit(rows):
    return rows / rows.norm(dim=1, keepdim=True)


def by_votes(bank, labels, asked, wanted, k, temperature, alone):
    right = 0
    for i, query in enumerate(unit(asked)):
        scores = [(float(query @ row), int(c)) for j, (row, c) in enumerate(zip(unit(bank), labels, strict=True))
                  if not (alone and i == j)]  # fmt: skip
        votes = {}
        for score, label in sorted(scores, reverse=True)[:k]:
            votes[label] = votes.get(label, 0.0) + (2.718281828459045 ** (score / temperature) if temperature else 1.0)
        right += (
            max(votes, key=votes.get) == int(wanted[i]) and sorted(votes.values())[-2:].count(max(votes.values())) == 1
        )
    return right / len(asked)


@pytest.mark.parametrize("block", [1 << 22, 16], ids=["one block", "row by row"])
@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (5, 0.5), (5, None), (99, 0.2)])
@pytest.mark.parametrize("alone", [False, True], ids=["queries", "without queries"])
def test_neighbours_vote_as_the_definition_says(monkeypatch, block, k, temperature, alone):
    monkeypatch.setattr(embedding_rows, "_BLOCK", block)
    asked = () if alone else (QUERIES, ASKED)
    accuracy = knn_accuracy(EMBEDDINGS, TARGET, *asked, k=k, temperature=temperature).item()
    queries, wanted = (EMBEDDINGS, TARGET) if alone else (QUERIES, ASKED)
    assert accuracy == pytest.approx(by_votes(EMBEDDINGS, TARGET, queries, wanted, k, temperature, alone))


def test_the_nearest_mean_is_that_of_the_other_samples():
    hits = []
    # The last class has one sample more, alone in its class, which is no query.
    embeddings, target = torch.cat([EMBEDDINGS, -CENTRES[:1]]), torch.cat([TARGET, torch.tensor([9])])
    for i in range(15):
        rest = torch.arange(16) != i
        means = {int(c): unit(embeddings)[rest & (target == c)].mean(dim=0) for c in target.unique()}
        cosines = {c: float(torch.cosine_similarity(embeddings[i], mean, dim=0)) for c, mean in means.items()}
        hits.append(max(cosines, key=cosines.get) == int(target[i]))
    assert nearest_class_mean_accuracy(embeddings, target).item() == pytest.approx(sum(hits) / 15)
    means = torch.stack([unit(EMBEDDINGS)[c == TARGET].mean(dim=0) for c in (0, 1, 2, 7)])
    nearest = torch.tensor([0, 1, 2, 7])[(unit(QUERIES) @ unit(means).T).argmax(dim=1)]
    # Class 3 is asked for, but has no mean.
    accuracy = nearest_class_mean_accuracy(EMBEDDINGS, TARGET, QUERIES, ASKED)
    assert accuracy.item() == pytest.approx((nearest == ASKED).double().mean().item())


@pytest.mark.parametrize("measure", [knn_accuracy, nearest_class_mean_accuracy])
def test_collapsed_embeddings_are_never_right_and_no_numbers_give_none(measure):
    target = torch.arange(6) % 3
    assert measure(torch.zeros(6, 2), target) == 0
    assert measure(torch.full((6, 2), torch.nan), target).isnan()
    # Lengths do not matter.
    assert measure(EMBEDDINGS * torch.arange(1, 16).unsqueeze(1), TARGET) == measure(EMBEDDINGS, TARGET)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: knn_accuracy(EMBEDDINGS, TARGET, QUERIES[:, :2], ASKED),
            "knn_accuracy: queries of 2 numbers came with embeddings of 5; give the same D.",
        ),
        (
            lambda: knn_accuracy(EMBEDDINGS, TARGET, None, ASKED),
            "knn_accuracy: a query_target came without queries; give queries with their classes, or at least two "
            "embeddings alone.",
        ),
        (
            lambda: nearest_class_mean_accuracy(EMBEDDINGS[:3], TARGET[:3]),
            "nearest_class_mean_accuracy: no class has two embeddings; give several of a class, or queries.",
        ),
        *(
            (
                lambda measure=measure: measure(EMBEDDINGS, TARGET.index_fill(0, torch.tensor(3), -100)),
                f"{measure.__name__}: target holds -100, which is no class; give class indices from 0 on, and leave "
                "out the samples that are ignored, by embeddings[target >= 0].",
            )
            for measure in (knn_accuracy, nearest_class_mean_accuracy, class_retrieval, opis, tolerance)
        ),
    ],
    ids=["widths", "no queries", "one of each", "knn", "means", "retrieval", "opis", "tolerance"],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError) as error:
        call()
    assert str(error.value) == message
