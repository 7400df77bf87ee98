"""EMO: its value and gradient from the definition, its limits, and the same through a fused head."""

import pytest
import torch
import torch.nn.functional as F

from lightning_losses.kernels.linear_emo import linear_emo
from lightning_losses.losses import EMO
from tests.each import each

GENERATOR = torch.Generator().manual_seed(3)
LOGITS = 2 * torch.randn(5, 7, dtype=torch.float64, generator=GENERATOR)
COST = torch.randn(7, 4, dtype=torch.float64, generator=GENERATOR)
TARGET = torch.tensor([0, 6, -100, 2, 2])


def parts(logits, target, cost):
    """Likelihood, distance and their gradients by the logits, written with a loop over the vocabulary."""
    q, one = logits.softmax(dim=-1), F.one_hot(torch.tensor(target), len(logits)).double()
    cosine = torch.stack([F.cosine_similarity(row, cost[target], dim=0) for row in cost])
    distance = 1 - sum(q[v] * cosine[v] for v in range(len(q)) if v != target)
    # d q_v / d z_k = q_v ([v = k] - q_k), and every v counts in the gradient, the target too.
    return -q[target].log(), distance, q - one, -q * (cosine - q @ cosine)


@each("mode", ["emo1", "emo2"])
@each("most", [None, 0.4])
def test_value_and_gradient_are_those_of_the_definition(mode, most):
    logits = LOGITS.clone().requires_grad_()
    values = EMO(mode, max_ratio=most, reduction="none")(logits, TARGET, COST)
    (slopes,) = torch.autograd.grad(values.sum(), logits)
    for value, slope, row, target in zip(values, slopes, LOGITS, TARGET.tolist(), strict=True):
        if target < 0:
            assert value == 0 and bool((slope == 0).all())
            continue
        likelihood, distance, by_likelihood, by_distance = parts(row, target, COST)
        ratio = likelihood / distance if mode == "emo1" else distance / likelihood
        ratio = ratio if most is None else min(ratio, most)
        if mode == "emo1":
            want, slope_of = (ratio * distance + likelihood) / 2, (ratio * by_distance + by_likelihood) / 2
        else:
            want, slope_of = ratio * likelihood + distance, ratio * by_likelihood + by_distance
        torch.testing.assert_close(value, want, rtol=1e-8, atol=1e-9)
        torch.testing.assert_close(slope, slope_of, rtol=1e-8, atol=1e-9)


def test_the_target_s_share_changes_the_value_alone():
    rows = {
        whole: EMO("emo2", subtract_target=not whole, max_ratio=1e-12, reduction="none")(LOGITS, TARGET, COST)
        for whole in (True, False)
    }
    kept = TARGET >= 0
    share = LOGITS.softmax(dim=-1)[kept, TARGET[kept]]
    torch.testing.assert_close((rows[False] - rows[True])[kept], share, rtol=1e-9, atol=1e-9)
    # The paper's distance is 0 for a prediction that is certain and right, or certain of a token that means the same.
    certain = torch.full((2, 7), -60.0, dtype=torch.float64)
    certain[0, 3] = certain[1, 5] = 60.0
    same = COST.clone()
    same[5] = 2 * COST[3]
    loss = EMO("emo2", subtract_target=False, max_ratio=1e-12, reduction="none")
    assert loss(certain, torch.tensor([3, 3]), same).abs().max() < 1e-9


def test_length_and_rotation_of_the_cost_embedding_do_not_matter():
    turned, _ = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64, generator=GENERATOR))
    scaled = COST @ turned * torch.linspace(0.1, 9, 7, dtype=torch.float64).unsqueeze(1)
    torch.testing.assert_close(EMO("emo2")(LOGITS, TARGET, scaled), EMO("emo2")(LOGITS, TARGET, COST))


def test_no_gradient_goes_to_the_cost_embedding():
    cost = COST.clone().requires_grad_()
    EMO()(LOGITS.clone().requires_grad_(), TARGET, cost).backward()
    assert cost.grad is None


@each("mode", ["emo1", "emo2"])
@each("dtype", [torch.float32, torch.float16])
def test_extreme_logits_and_empty_vectors_stay_finite(mode, dtype):
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0], [0.0, -torch.inf, 5.0]], dtype=dtype, requires_grad=True)
    value = EMO(mode)(logits, torch.tensor([0, 0, 0]), torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]], dtype=dtype))
    value.backward()
    assert torch.isfinite(value) and bool(torch.isfinite(logits.grad).all())


@each("impl", ["auto", "chunked", "autograd", "reference"])
@each("reduction", ["mean", "sum", "none"])
def test_a_fused_head_gives_the_same(impl, reduction):
    hidden = torch.randn(2, 5, 4, dtype=torch.float64, generator=GENERATOR)
    bias = torch.randn(7, dtype=torch.float64, generator=GENERATOR)
    target = TARGET.expand(2, 5)

    def both(cost, fused):
        leaves = [tensor.clone().requires_grad_() for tensor in (hidden, COST, bias)]
        h, w, b = leaves
        loss = EMO("emo2", reduction=reduction)
        if fused:
            value = linear_emo(loss, h, w, target, b, cost_embedding=cost, chunk=3, softcap=5.0, impl=impl)
        else:
            scores = 5 * torch.tanh((h @ w.T + b) / 5)
            value = loss(scores, target, w if cost is None else cost)
        return value, torch.autograd.grad(value.sum(), leaves)

    for cost in (None, COST[:, :2]):
        torch.testing.assert_close(both(cost, True), both(cost, False), rtol=1e-9, atol=1e-10)


def test_a_fused_head_divides_by_a_normalizer_and_compiles():
    hidden, weight = LOGITS[:, :4].float(), COST.float()
    loss = EMO(reduction="sum")
    total = linear_emo(loss, hidden, weight, TARGET)
    torch.testing.assert_close(linear_emo(EMO(), hidden, weight, TARGET, normalizer=8.0), total / 8)
    torch._dynamo.reset()
    mean = EMO()
    compiled = torch.compile(lambda h, w, c: linear_emo(mean, h, w, TARGET, cost_embedding=c), backend="eager")
    plain = linear_emo(EMO(), hidden, weight, TARGET, cost_embedding=weight[:, :3])
    torch.testing.assert_close(compiled(hidden, weight, weight[:, :3]), plain)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"^emo: cost_embedding of shape \[6, 4\] came with logits of 7 classes; give"):
        EMO()(LOGITS, TARGET, COST[:6])
    with pytest.raises(ValueError, match="^emo: a target of probabilities came"):
        EMO()(LOGITS, LOGITS.softmax(dim=-1), COST)
    with pytest.raises(ValueError, match="^emo: mode='emo3' came; choose one of 'emo1', 'emo2'"):
        EMO("emo3")
