"""The regulariser of attention's entropy: value and thresholds' gradient from the definition, tolerance, masks."""

import math

import pytest
import torch

from lightning_losses.losses import AttentionEntropyRegularizer
from tests.each import each

ATTENTIONS = (2 * torch.randn(3, 2, 4, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3))).softmax(
    dim=-1
)


def loss(**options):
    return AttentionEntropyRegularizer(2, 4, **options).double()


@each("tolerance", [0.0, 0.1, 0.3])
def test_value_is_that_of_the_definition(tolerance):
    module = loss(tolerance=tolerance, reduction="none")
    with torch.no_grad():
        module.thresholds.copy_(torch.linspace(0.1, 0.9, 8).view(2, 4))
    rows = module(ATTENTIONS).detach()
    outside, values = 0, torch.zeros(3, 5, dtype=torch.float64)
    for sample in range(3):
        for query in range(5):
            total = 0.0
            for layer in range(2):
                for head in range(4):
                    weights = ATTENTIONS[sample, layer, head, query]
                    entropy = sum(-w * math.log(w) for w in weights.tolist())
                    apart = entropy - module.thresholds[layer, head].item() * math.log(5)
                    counts = abs(apart) > tolerance * math.log(5)
                    outside += counts
                    total += apart**2 if counts else 0.0
            values[sample, query] = total / 8
    torch.testing.assert_close(rows, values.mean(dim=1), rtol=1e-6, atol=1e-8)
    # The tolerance decides about some heads, and not about all.
    assert outside == 120 if tolerance == 0 else 0 < outside < 120
    torch.testing.assert_close(
        loss(tolerance=tolerance)(ATTENTIONS), loss(tolerance=tolerance, reduction="sum")(ATTENTIONS) / 3
    )


def test_thresholds_learn_towards_the_entropy_that_is_there():
    module = loss(tolerance=0.0)
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    before = module(ATTENTIONS).item()
    for _ in range(60):
        optimizer.zero_grad()
        module(ATTENTIONS).backward()
        optimizer.step()
    entropy = -(ATTENTIONS * ATTENTIONS.log()).sum(-1).mean(dim=(0, -1))
    torch.testing.assert_close(module.thresholds.detach(), entropy / math.log(5), rtol=1e-3, atol=1e-3)
    assert module(ATTENTIONS).item() < before


def test_one_key_or_even_attention_is_what_it_punishes():
    even, one = torch.full((1, 1, 1, 2, 4), 0.25), torch.eye(4)[:2].view(1, 1, 1, 2, 4)
    module = AttentionEntropyRegularizer(1, 1, tolerance=0.6)
    assert module(even) == 0 and module(one) == 0
    module = AttentionEntropyRegularizer(1, 1, tolerance=0.4)
    assert module(even).item() == pytest.approx(math.log(4) ** 2 / 4)
    assert module(one).item() == pytest.approx(math.log(4) ** 2 / 4)


def test_causal_zeros_have_finite_gradients():
    scores = torch.randn(2, 2, 4, 5, 5, generator=torch.Generator().manual_seed(1)).requires_grad_()
    masked = scores.masked_fill(~torch.ones(5, 5, dtype=torch.bool).tril(), -math.inf)
    AttentionEntropyRegularizer(2, 4)(masked.softmax(dim=-1)).backward()
    assert bool(torch.isfinite(scores.grad).all()) and float(scores.grad.abs().max()) > 0


def test_a_query_that_attends_to_nothing_adds_nothing():
    module = loss(tolerance=0.0)
    value = module(torch.cat([ATTENTIONS, torch.zeros_like(ATTENTIONS[..., :2, :])], dim=-2))
    (slope,) = torch.autograd.grad(value, module.thresholds)
    (whole,) = torch.autograd.grad(wanted := module(ATTENTIONS), module.thresholds)
    # Of 7 queries 5 attend.
    torch.testing.assert_close((value, slope), (wanted * 5 / 7, whole * 5 / 7))


def test_padding_does_not_count_whatever_it_holds():
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]])
    spoiled = torch.where(mask[:, None, None, :, None] == 1, ATTENTIONS, torch.nan).requires_grad_()
    value = loss()(spoiled, mask)
    alone = [loss()(ATTENTIONS[:1]), loss()(ATTENTIONS[1:2, :, :, :2])]
    torch.testing.assert_close(value, (alone[0] + alone[1]) / 2)
    (slope,) = torch.autograd.grad(value, spoiled)
    assert bool(torch.isfinite(slope).all())
    assert loss()(spoiled, torch.zeros(3, 5)) == 0
    assert loss().denominator(attentions=ATTENTIONS, attention_mask=mask) == 2
    assert loss().denominator(attentions=ATTENTIONS) == 3
    torch.testing.assert_close(loss()(spoiled, torch.tensor([1, 0, 0])), loss()(ATTENTIONS[:1]))
    assert loss().denominator(attentions=ATTENTIONS, attention_mask=torch.tensor([1, 0, 1])) == 2


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"^attention_entropy_regularizer: attentions of shape \[3, 2, 3, 5, 5\] came"):
        loss()(ATTENTIONS[:, :, :3])
    with pytest.raises(ValueError, match=r"^attention_entropy_regularizer: attention_mask of shape \[3, 4\] came"):
        loss()(ATTENTIONS, torch.ones(3, 4))
    with pytest.raises(ValueError, match=r"^attention_entropy_regularizer: layers=0 came"):
        AttentionEntropyRegularizer(0, 4)
