import pytest
import torch

from lightning_losses import ICNN
from tests.losses.contrastive.cases import classed


def score(embeddings, target, k):
    """From the definition, neighbour by neighbour."""
    near, far, share = [], [], []
    distances = (embeddings[:, None] - embeddings).square().sum(dim=-1).add(1e-6).sqrt()
    for i in range(len(target)):
        order = [int(j) for j in distances[i].argsort() if int(j) != i]
        other = [float(distances[i, j]) for j in order[: k + 1] if target[j] != target[i]]
        relative = [float(distances[i, j]) / min(other, default=float("inf")) for j in order[:k]]
        relative = [value / max(*relative, 1.0) for value in relative]
        own = [value for value, j in zip(relative, order, strict=False) if target[j] == target[i]]
        unlike = [float(distances[i, j]) for j in order[:k] if target[j] != target[i]]
        near += [sum(own) / len(own)] if own else []
        far.append(unlike)
        share.append(len(own) / k)
    largest = max((value for unlike in far for value in unlike), default=1.0)
    means = [sum(unlike) / len(unlike) / largest for unlike in far if unlike]
    spread = (1 - sum(near) / len(near) + (sum(means) / len(means) if means else 1.0)) / 2
    return (spread + sum(share) / len(share)) / 2


@pytest.mark.parametrize("k", [1, 2, 4, 9])
def test_it_is_minus_the_logarithm_of_the_score(k):
    embeddings, target = classed()
    expected = -torch.tensor(score(embeddings, target, k)).double().log()
    torch.testing.assert_close(ICNN(k=k)(embeddings, target), expected, rtol=1e-5, atol=1e-6)


def test_the_default_dtype_does_not_matter():
    """Training in bfloat16 sets it."""
    embeddings, target = classed()
    expected, before = ICNN(k=2)(embeddings, target), torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        assert torch.equal(ICNN(k=2)(embeddings, target), expected)
    finally:
        torch.set_default_dtype(before)


def test_well_separated_classes_score_nearly_1():
    embeddings, target = classed()[0], torch.arange(12) % 3
    apart = 100 * torch.nn.functional.one_hot(target, 5) + 0.01 * embeddings
    assert abs(ICNN(k=2)(apart, target)) < 0.01


def test_a_sample_is_no_neighbour_of_its_own_beside_its_copy():
    embeddings = torch.tensor([[0.0], [0.0], [1.0], [2.0], [3.0], [4.0]])
    moved = embeddings + torch.tensor([[0.0], [1e-4], [0.0], [0.0], [0.0], [0.0]])
    target = torch.tensor([0, 1, 0, 1, 0, 1])
    torch.testing.assert_close(ICNN(k=1)(embeddings, target), ICNN(k=1)(moved, target), rtol=0, atol=1e-2)


def test_fewer_neighbours_searched_than_counted_are_refused():
    with pytest.raises(ValueError) as refusal:
        ICNN(k=4, searched=3)
    assert str(refusal.value) == "icnn: searched=3 came with k=4; give at least 4."
