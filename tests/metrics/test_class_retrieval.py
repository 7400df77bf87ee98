import pytest
import torch

from lightning_losses.metrics import class_retrieval


def by_hand(embeddings, target):
    """Recall@1, R-precision and MAP@R of each sample that has others of its class, place by place."""
    unit = embeddings / embeddings.norm(dim=1, keepdim=True)
    scores = []
    for i in range(len(target)):
        order = sorted((j for j in range(len(target)) if j != i), key=lambda j: -float(unit[i] @ unit[j]))
        right = [bool(target[j] == target[i]) for j in order]
        r = sum(right)
        if r:
            precisions = [sum(right[: place + 1]) / (place + 1) for place in range(r) if right[place]]
            scores.append([float(right[0]), sum(right[:r]) / r, sum(precisions) / r])
    return torch.tensor(scores, dtype=torch.float64)


@pytest.mark.parametrize("block", [3, 1 << 22], ids=["by rows", "at once"])
def test_it_is_what_looking_place_by_place_finds(block, monkeypatch):
    monkeypatch.setattr("lightning_losses.metrics.embedding_rows._BLOCK", block)
    random = torch.Generator().manual_seed(0)
    embeddings, target = torch.randn(13, 3, generator=random), torch.tensor([0] * 6 + [4] * 4 + [2] * 2 + [9])
    found = class_retrieval(embeddings, target)
    torch.testing.assert_close(torch.stack(found[:3], dim=1), by_hand(embeddings, target))
    assert found.samples.tolist() == list(range(12))
    assert 0 < found.map_at_r.mean() < found.r_precision.mean() < 1


def test_equal_embeddings_find_nothing():
    found = class_retrieval(torch.ones(6, 2), torch.tensor([0, 0, 0, 1, 1, 1]))
    assert not found.recall_at_1.any() and not found.map_at_r.any()


def test_what_is_no_number_has_no_rank_and_no_class_of_two_is_refused():
    assert class_retrieval(torch.full((2, 2), torch.nan), torch.zeros(2, dtype=torch.int64)).map_at_r.isnan().all()
    with pytest.raises(ValueError) as refusal:
        class_retrieval(torch.ones(2, 2), torch.tensor([0, 1]))
    assert str(refusal.value) == "class_retrieval: no class has two samples; give several of a class."
