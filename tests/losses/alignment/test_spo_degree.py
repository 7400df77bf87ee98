import pytest
import torch
import torch.nn.functional as F

from lightning_losses.losses import SPODegree
from lightning_losses.losses.alignment.spo_degree import without_key_content

DRAW = torch.Generator().manual_seed(0)
FEATURES = torch.randn(5, 3, dtype=torch.float64, generator=DRAW)
DEGREES = torch.tensor([0, 3, 1, 2, 3])


def test_it_is_the_cross_entropy_of_its_own_head():
    loss = SPODegree(feature_dim=3, num_classes=4).double()
    expected = F.cross_entropy(FEATURES @ loss.head.weight.T + loss.head.bias, DEGREES)
    torch.testing.assert_close(loss(FEATURES, DEGREES), expected)


def test_an_ignored_row_may_hold_anything():
    loss = SPODegree(feature_dim=3, num_classes=4).double()
    parameters = list(loss.parameters())
    expected = torch.autograd.grad(loss(FEATURES[1:], DEGREES[1:]), parameters)
    features, degrees = FEATURES.clone(), DEGREES.clone()
    features[0], degrees[0] = torch.inf, -100
    torch.testing.assert_close(torch.autograd.grad(loss(features, degrees), parameters), expected)


def test_its_head_learns_the_degrees():
    torch.manual_seed(0)
    loss = SPODegree(feature_dim=4, num_classes=4)
    features, degrees = torch.eye(4), torch.arange(4)
    optimizer = torch.optim.SGD(loss.parameters(), 5.0)
    for _ in range(50):
        optimizer.zero_grad()
        loss(features, degrees).backward()
        optimizer.step()
    assert loss(features, degrees) < 0.05


def test_key_content_goes_by_its_importance_and_all_of_it_at_the_last_degree():
    importance = torch.tensor([[0.0, 5.0, 1.0, 3.0, 2.0, 9.0]]).expand(5, 6)
    mask = torch.tensor([[1, 1, 1, 1, 1, 0]]).expand(5, 6)
    stays = without_key_content(importance, mask, torch.arange(5), num_classes=5)
    assert stays.int().tolist() == [
        [1, 1, 1, 1, 1, 0],
        [1, 0, 1, 1, 1, 0],
        [1, 0, 1, 0, 1, 0],
        [1, 0, 1, 0, 0, 0],
        [1, 0, 0, 0, 0, 0],
    ]


def test_with_fewer_key_tokens_than_degrees_each_degree_but_0_removes_something():
    importance = torch.tensor([[2.0, 1.0, 0.0]]).expand(5, 3)
    stays = without_key_content(importance, torch.ones(5, 3), torch.arange(5), num_classes=5)
    assert stays.sum(dim=1).tolist() == [3, 2, 2, 1, 1]


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"^spo_degree: features of shape \[5, 3\] came with feature_dim=2"):
        SPODegree(feature_dim=2)(FEATURES, DEGREES)
    with pytest.raises(ValueError, match="^spo_degree: num_classes=1 came; give a whole number of at least 2"):
        SPODegree(feature_dim=3, num_classes=1)
