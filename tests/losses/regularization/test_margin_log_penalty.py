import math

import torch

from lightning_losses.losses import MarginLogPenalty

LOGITS = torch.linspace(-2, 2, 12, dtype=torch.float64).reshape(3, 4).cos()


def test_value_from_the_definition():
    p = LOGITS.softmax(dim=-1)
    torch.testing.assert_close(MarginLogPenalty()(LOGITS), torch.log(1 + torch.linalg.matrix_norm(p) ** 2))
    each = torch.log(1 + torch.linalg.vector_norm(p, dim=-1) ** 2)
    torch.testing.assert_close(MarginLogPenalty(over="sample")(LOGITS), each.mean())


def test_it_is_smallest_where_predictions_are_uniform():
    uniform = torch.zeros(6, 4, dtype=torch.float64, requires_grad=True)
    value = MarginLogPenalty()(uniform)
    value.backward()
    assert math.isclose(value.item(), math.log(1 + 6 / 4)) and uniform.grad.abs().max() < 1e-15
    assert MarginLogPenalty()(LOGITS.repeat(2, 1)) > value
