import torch

from lightning_losses.kernels.linear_distillation import linear_distillation
from lightning_losses.losses import ForwardKL, UnDIAL


def sample():
    generator = torch.Generator().manual_seed(0)
    logits, teacher = (2 * torch.randn(4, 5, dtype=torch.float64, generator=generator) for _ in range(2))
    return logits, teacher, torch.tensor([0, 4, -100, 2])


def test_value_from_the_definition_without_ignored_rows():
    logits, teacher, target = sample()
    values = []
    for row in (0, 1, 3):
        lowered = teacher[row].clone()
        lowered[target[row]] -= 3.0
        values.append(-(lowered.softmax(-1) * logits[row].log_softmax(-1)).sum())
    torch.testing.assert_close(UnDIAL(strength=3.0)(logits, teacher, target), torch.stack(values).mean())


def test_without_strength_it_pulls_as_distillation():
    logits, teacher, target = sample()
    leaves = [logits.clone().requires_grad_() for _ in range(2)]
    UnDIAL(strength=0.0)(leaves[0], teacher, target).backward()
    ForwardKL(temperature=1.0)(leaves[1], teacher, target).backward()
    torch.testing.assert_close(leaves[0].grad, leaves[1].grad)


def test_its_minimum_has_forgotten_the_token():
    _, teacher, target = sample()
    best = teacher.clone()
    best[[0, 1, 3], target[[0, 1, 3]]] -= 10.0
    leaf = best.requires_grad_()
    UnDIAL()(leaf, teacher, target).backward()
    assert leaf.grad.abs().max() < 1e-12


def test_a_fused_head_takes_it():
    generator = torch.Generator().manual_seed(1)
    hidden, head, frozen, frozen_head = (
        torch.randn(rows, 3, dtype=torch.float64, generator=generator) for rows in (4, 5, 4, 5)
    )
    target = sample()[2]
    fused = linear_distillation(hidden, head, frozen, frozen_head, target, objective=UnDIAL(), chunk=3)
    torch.testing.assert_close(fused.loss, UnDIAL()(hidden @ head.T, frozen @ frozen_head.T, target))
