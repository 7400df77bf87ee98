import pytest
import torch
import torch.nn.functional as F

from lightning_losses import SupCon


def test_the_mean_over_positives_one_by_one():
    embeddings, target = torch.randn(7, 4, dtype=torch.float64), torch.tensor([5, 0, 5, -100, 0, 5, 9])
    unit = F.normalize(embeddings, dim=-1)
    kept = [i for i in range(7) if target[i] != -100]
    values = []
    for i in kept:
        others = [j for j in kept if j != i]
        lse = torch.stack([unit[i] @ unit[j] / 0.2 for j in others]).logsumexp(0)
        positives = [lse - unit[i] @ unit[j] / 0.2 for j in others if target[j] == target[i]]
        if positives:
            values.append(0.2 / 0.07 * torch.stack(positives).mean())
    torch.testing.assert_close(SupCon(0.2)(embeddings, target), torch.stack(values).mean())


@pytest.mark.parametrize("target", [[0, 1, 2], [-100, -100, -100], [-100, -100, 1]])
def test_without_a_positive_it_is_0(target):
    embeddings = torch.randn(3, 4, requires_grad=True)
    value = SupCon()(embeddings, torch.tensor(target))
    assert value.item() == 0 and (torch.autograd.grad(value, embeddings)[0] == 0).all()


def test_two_views_are_twice_the_samples():
    a, b = torch.randn(2, 5, 4, dtype=torch.float64)
    target = torch.tensor([0, 1, 0, 2, 1])
    both = SupCon()(torch.cat([a, b]), torch.cat([target, target]))
    torch.testing.assert_close(SupCon()(a, target, b), both)
