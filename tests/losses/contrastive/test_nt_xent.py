import math

import torch
import torch.nn.functional as F

from lightning_losses import NTXent, SupCon


def views(rows=6):
    return torch.randn(2, rows, 4, dtype=torch.float64)


def test_each_view_picks_its_partner_one_by_one():
    a, b = views()
    unit = F.normalize(torch.cat([a, b]), dim=-1)
    values = []
    for i in range(12):
        scores = [math.exp(float(unit[i] @ unit[j]) / 0.3) for j in range(12) if j != i]
        values.append(math.log(sum(scores)) - float(unit[i] @ unit[(i + 6) % 12]) / 0.3)
    assert math.isclose(NTXent(0.3)(a, b).item(), sum(values) / 12, rel_tol=1e-12)


def test_a_queue_adds_negatives():
    a, b = views()
    queue = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    unit, negatives = F.normalize(torch.cat([a, b]), dim=-1), F.normalize(queue.detach(), dim=-1)
    scores = torch.cat([(unit @ unit.T).fill_diagonal_(-torch.inf), unit @ negatives.T], dim=1) / 0.3
    partner = torch.arange(12).roll(6)
    value = NTXent(0.3)(a, b, queue)
    torch.testing.assert_close(value, F.cross_entropy(scores, partner))
    assert not value.requires_grad
    torch.testing.assert_close(NTXent(0.3)(a, b, queue[:0]), NTXent(0.3)(a, b))


def test_swapped_views_and_lengths_change_nothing():
    a, b = views()
    value = NTXent()(a, b)
    torch.testing.assert_close(NTXent()(b, a), value)
    torch.testing.assert_close(NTXent()(3 * a, b * torch.rand(6, 1, dtype=torch.float64)), value)


def test_without_classes_in_common_it_is_supcon():
    a, b = views()
    torch.testing.assert_close(SupCon(0.5, 0.5)(a, torch.arange(6), b), NTXent(0.5)(a, b))


def test_one_sample_and_half_precision():
    a, b = views(1)
    a.requires_grad_()
    value = NTXent()(a, b)
    torch.testing.assert_close((value, *torch.autograd.grad(value, a)), (0 * value, 0 * a))
    a, b = torch.randn(2, 8, 16).half()
    torch.testing.assert_close(NTXent(0.01)(a, b), NTXent(0.01)(a.float(), b.float()))
