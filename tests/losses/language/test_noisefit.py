"""NoiseFiT's loss, the noise it is about, and the loss through a fused head."""

import pytest
import torch
import torch.nn.functional as F

from lightning_losses.kernels.linear_noisefit import linear_noisefit
from lightning_losses.losses import NoiseFiT
from lightning_losses.numerics.adaptive_noise import adaptive_noise
from tests.each import each

GENERATOR = torch.Generator().manual_seed(3)


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=GENERATOR)


CLEAN, FIRST, SECOND = (2 * normal(4, 6) for _ in range(3))
TARGET = torch.tensor([0, -100, 5, 2])
KEPT = TARGET >= 0


def kl(p, q):
    return (p * (p.log() - q.log())).sum(dim=-1)


@each("detached", [False, True])
def test_value_is_that_of_the_definition(detached):
    loss = NoiseFiT(0.7, 0.3, 2.0, detached, reduction="none")
    p, q1, q2 = (CLEAN / 2).softmax(-1), FIRST.softmax(-1), SECOND.softmax(-1)
    want = 0.7 * (kl(p, q1) + kl(p, q2)) / 2 + 0.3 * kl(q2, q1)
    torch.testing.assert_close(loss(CLEAN, FIRST, SECOND, TARGET), torch.where(KEPT, want, 0.0))


def test_targets_have_a_gradient_unless_they_are_cut():
    slopes = {}
    for detached in (False, True):
        leaves = [tensor.clone().requires_grad_() for tensor in (CLEAN, FIRST, SECOND)]
        value = NoiseFiT(1.0, 0.0, detach_targets=detached, reduction="sum")(*leaves, TARGET)
        slopes[detached] = torch.autograd.grad(value, leaves, materialize_grads=True)
    assert bool((slopes[True][0] == 0).all()) and float(slopes[False][0].abs().max()) > 0.01
    want = torch.where(KEPT.unsqueeze(1), (FIRST.softmax(-1) - CLEAN.softmax(-1)) / 2, 0.0)
    torch.testing.assert_close(slopes[True][1], want)
    torch.testing.assert_close(slopes[True][2], slopes[False][2])


def test_it_is_0_where_all_passes_agree_and_positive_elsewhere():
    rows = NoiseFiT(reduction="none")
    assert rows(CLEAN, CLEAN, CLEAN, TARGET).abs().max() < 1e-12
    assert bool((rows(CLEAN, FIRST, SECOND, TARGET)[KEPT] > 0).all())
    # A constant on all logits of a pass changes no softmax.
    moved = rows(CLEAN + 3, FIRST - 1, SECOND, TARGET)
    torch.testing.assert_close(moved, rows(CLEAN, FIRST, SECOND, TARGET))


def test_ignored_rows_may_hold_anything():
    spoiled = [torch.where(KEPT.unsqueeze(1), tensor, torch.nan).requires_grad_() for tensor in (CLEAN, FIRST, SECOND)]
    value = NoiseFiT()(*spoiled, TARGET)
    torch.testing.assert_close(value, NoiseFiT()(CLEAN[KEPT], FIRST[KEPT], SECOND[KEPT], TARGET[KEPT]))
    assert all(bool(torch.isfinite(g).all()) for g in torch.autograd.grad(value, spoiled))


@each("softcap", [None, 4.0])
@each("reduction", ["mean", "sum", "none"])
def test_a_fused_head_gives_the_same(softcap, reduction):
    states, weight, bias = normal(3, 2, 4, 5), normal(6, 5), normal(6)
    target, loss = TARGET.expand(2, 4), NoiseFiT(reduction=reduction)

    def plain(h, w, b):
        scores = h @ w.T + b
        logits = scores if softcap is None else softcap * torch.tanh(scores / softcap)
        return loss(*logits, target)

    def fused(h, w, b):
        return linear_noisefit(loss, *h, w, target, b, softcap=softcap, chunk=3)

    found = []
    for function in (plain, fused):
        leaves = [tensor.clone().requires_grad_() for tensor in (states, weight, bias)]
        value = function(*leaves)
        found.append((value, torch.autograd.grad(value.sum(), leaves)))
    torch.testing.assert_close(found[1], found[0], rtol=1e-10, atol=1e-12)


def test_a_fused_head_keeps_no_more_than_a_chunk():
    hidden, weight = [torch.randn(64, 4, requires_grad=True) for _ in range(3)], torch.randn(50, 4, requires_grad=True)
    sizes = []

    def pack(tensor):
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        value = linear_noisefit(NoiseFiT(), *hidden, weight, torch.zeros(64, dtype=torch.int64), chunk=8)
    assert max(sizes) < 8 * 50
    value.backward()


def test_a_normalizer_divides_and_nothing_kept_is_0():
    hidden, weight = normal(3, 4, 5), normal(6, 5)
    total = linear_noisefit(NoiseFiT(reduction="sum"), *hidden, weight, TARGET)
    torch.testing.assert_close(linear_noisefit(NoiseFiT(), *hidden, weight, TARGET, normalizer=5.0), total / 5)
    nothing = torch.full((4,), -100)
    leaf = hidden.clone().requires_grad_()
    value = linear_noisefit(NoiseFiT(), *leaf, weight, nothing)
    value.backward()
    assert value == 0 and bool((leaf.grad == 0).all())


def test_the_noise_has_mean_0_and_its_size_from_the_definition():
    hidden = normal(3, 5, 9)
    draws = torch.stack([adaptive_noise(hidden, normal(3, 5, 9), 0.1) for _ in range(400)])
    assert (draws.mean(0).abs() / (draws.std(0) / 20)).max() < 5
    token = hidden[1, 2]
    median = token.sort().values[4]
    spread = (token - median).abs().sort().values[4]
    factor = min(5.0, float((token.var() / hidden.var(dim=-1).mean()).exp()))
    want = 0.1 * 0.5 * spread * (-0.2 * (token - median).abs() / spread).exp() * factor
    size = adaptive_noise(hidden, torch.ones_like(hidden), 0.1, beta=0.2, gate=0.5)[1, 2]
    torch.testing.assert_close(size, want, rtol=1e-4, atol=1e-9)
    assert bool((adaptive_noise(hidden, normal(3, 5, 9), 0.0) == 0).all())
    # A token whose entries are all alike has no spread, and noise below a millionth of it.
    assert adaptive_noise(torch.ones(1, 4), torch.ones(1, 4), 1.0).abs().max() < 1e-5


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"^noisefit: noisy_logits_b of shape \[3, 6\] came with logits of shape"):
        NoiseFiT()(CLEAN, FIRST, SECOND[:3], TARGET)
    with pytest.raises(ValueError, match="^linear_noisefit: hidden of shape"):
        linear_noisefit(NoiseFiT(), CLEAN, FIRST, SECOND[:, :3], normal(7, 6), TARGET)


def test_kl_is_torch_s():
    want = F.kl_div(FIRST.log_softmax(-1), SECOND.softmax(-1), reduction="none").sum(-1)[KEPT].mean()
    torch.testing.assert_close(NoiseFiT(0.0, 1.0)(CLEAN, FIRST, SECOND, TARGET), want)
