import math

import pytest
import torch
import torch.nn.functional as F

from lightning_losses.losses import CRD
from lightning_losses.losses.distillation.features.crd import symmetric_info_nce


def vectors(n=5, d=3):
    return torch.randn(n, d, dtype=torch.float64)


def test_value_from_the_definition():
    a, b = vectors(), vectors()
    target = torch.tensor([0, 1, 0, 2, 1])
    cosines = torch.stack([F.cosine_similarity(row.expand_as(b), b) for row in a]) / 0.1
    total = 0.0
    for scores in (cosines, cosines.T):
        for i in range(5):
            negatives = [j for j in range(5) if j == i or target[j] != target[i]]
            total -= (scores[i, i] - scores[i, negatives].logsumexp(0)) / 5
    torch.testing.assert_close(symmetric_info_nce(a, b, target, temperature=0.1), total)
    every = F.cross_entropy(cosines, torch.arange(5)) + F.cross_entropy(cosines.T, torch.arange(5))
    torch.testing.assert_close(symmetric_info_nce(a, b, temperature=0.1), every)


def test_it_is_symmetric_and_does_not_see_lengths_or_order():
    a, b, order = vectors(), vectors(), torch.randperm(5)
    torch.testing.assert_close(symmetric_info_nce(a, b), symmetric_info_nce(b, a))
    torch.testing.assert_close(symmetric_info_nce(3 * a, b / 2), symmetric_info_nce(a, b))
    torch.testing.assert_close(symmetric_info_nce(a[order], b[order]), symmetric_info_nce(a, b))


def test_equal_embeddings_cost_the_logarithm_of_the_batch():
    same = torch.ones(6, 3, dtype=torch.float64)
    assert symmetric_info_nce(same, same).item() == pytest.approx(2 * math.log(6))
    assert symmetric_info_nce(same, same, torch.zeros(6, dtype=torch.int64)).item() == 0


def test_both_embeddings_learn_and_are_saved():
    loss = CRD(embedding_dim=4)
    student, teacher = torch.randn(5, 3), torch.randn(5, 7, requires_grad=True)
    loss(student, teacher).backward()
    assert teacher.grad is None
    assert all(bool((p.grad != 0).any()) for name, p in loss.named_parameters() if name.endswith("weight"))
    assert loss.state_dict()["teacher_embedding.weight"].shape == (4, 7)
    assert CRD(embedding_dim=4, feature_dim=3, teacher_dim=7).load_state_dict(loss.state_dict())


def test_tensors_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"^crd: teacher_features of shape \[4, 3\]"):
        CRD()(torch.zeros(5, 3), torch.zeros(4, 3))
    with pytest.raises(ValueError, match=r"^crd: target of shape \[4\]"):
        CRD()(torch.zeros(5, 3), torch.zeros(5, 3), torch.zeros(4).long())
    with pytest.raises(ValueError, match="^crd: embedding_dim=0"):
        CRD(embedding_dim=0)


def test_a_sample_without_a_label_is_no_negative_and_counts_for_nothing():
    loss = CRD(embedding_dim=3)
    features, teacher = vectors(), vectors()
    target = torch.tensor([0, -100, 1, -100, 1])
    kept = target != -100
    features[1] = torch.nan
    features.requires_grad_()
    value = loss(features, teacher, target)
    torch.testing.assert_close(value, loss(features[kept], teacher[kept], target[kept]))
    assert torch.autograd.grad(value, features)[0][~kept].eq(0).all()
    assert loss(features.detach(), teacher, torch.full((5,), -100)) == 0
