import math

import torch
from hypothesis import given

from lightning_losses.losses import ALDRKL
from tests.losses.strategies import pairs


def begun(logits):
    return torch.full_like(logits[:, 0], 10.0)


@given(pairs())
def test_value_from_the_definition(pair):
    values = []
    for row, label in zip(pair.logits, pair.target, strict=True):
        z = torch.nn.functional.softplus(row)
        z = z / z.mean()
        q = (z / 10).softmax(dim=-1) + 1e-5
        q, classes = q / q.sum(), len(q)
        temperature = 10 - 10 * (q * (classes * q).log()).sum() / (2 * math.log(classes))
        margins = torch.stack([z[k] - z[label] + (0.1 if k != label else 0) for k in range(classes)])
        loss = temperature * (margins / temperature).exp().mean().log()
        values.append(loss - 2 * math.log(classes) / 20 * (temperature - 10) ** 2)
    torch.testing.assert_close(ALDRKL()(pair.logits, pair.target, begun(pair.logits)), torch.stack(values).mean())


@given(pairs())
def test_the_temperature_stays_in_its_range(pair):
    loss = ALDRKL(alpha=1.5)
    told = begun(pair.logits)
    for _ in range(4):
        told = loss.next_temperature(pair.logits, told)
        assert ((told > 10 * (1 - 1 / 1.5)) & (told <= 10 + 1e-9)).all()


def test_sure_samples_get_a_low_temperature_and_even_ones_keep_the_first():
    sure, even = torch.tensor([[90.0, 0.0, 0.0]]), torch.zeros(1, 3)
    loss = ALDRKL(temperature=1.0)
    assert loss.next_temperature(sure, torch.ones(1)) < 0.51
    torch.testing.assert_close(loss.next_temperature(even, torch.ones(1)), torch.ones(1))
    assert ALDRKL(softplus=False)(even, torch.tensor([0]), torch.full((1,), 10.0)).isfinite()


def test_with_a_high_price_the_temperature_is_the_first_one():
    logits, target = torch.randn(4, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    fixed = ALDRKL(alpha=1e12)(logits, target, begun(logits))
    z = torch.nn.functional.softplus(logits)
    z = z / z.mean(dim=-1, keepdim=True)
    margins = z - z.gather(1, target[:, None]) + 0.1 * (1 - torch.eye(3)[target])
    torch.testing.assert_close(fixed, (10 * (margins / 10).exp().mean(dim=-1).log()).mean())
