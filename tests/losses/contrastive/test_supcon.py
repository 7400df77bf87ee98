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


def test_classes_may_be_a_column_of_a_table():
    embeddings, table = torch.randn(5, 4), torch.tensor([[0, 9], [1, 9], [0, 9], [2, 9], [1, 9]])
    expected, before = SupCon()(embeddings, table[:, 0].clone()), torch.is_warn_always_enabled()
    # Torch warns of the stride once in a process, and a warning is an error here.
    torch.set_warn_always(True)
    try:
        assert torch.equal(SupCon()(embeddings, table[:, 0]), expected)
    finally:
        torch.set_warn_always(before)


@pytest.mark.parametrize("spread", [1.0, 0.3])
def test_a_small_temperature_leaves_single_precision_its_digits(spread):
    draw = torch.Generator().manual_seed(0)
    target = torch.arange(24) % 4
    embeddings = F.normalize(torch.randn(4, 16, generator=draw), dim=-1)[target]
    embeddings = embeddings + spread * torch.randn(24, 16, generator=draw) / 4
    values, slopes = [], []
    for dtype in (torch.float32, torch.float64):
        leaf = embeddings.to(dtype).requires_grad_()
        values.append(SupCon(temperature=0.01)(leaf, target))
        slopes.append(torch.autograd.grad(values[-1], leaf)[0])
    # A cosine of single precision is off by 6e-8, and a score by a hundred times that; the gradients are differences.
    torch.testing.assert_close(values[0].double(), values[1], rtol=1e-5, atol=0.0)
    assert (slopes[0].double() - slopes[1]).norm() < 1e-4 * slopes[1].norm()
