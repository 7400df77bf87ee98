"""Steps that call a head compile without a break, and give what they give without the compiler."""

import pytest
import torch

from lightning_losses.kernels.chunked_head import chunked_head
from lightning_losses.kernels.cross_entropy.recompute import Recomputed
from lightning_losses.kernels.linear_cross_entropy import LinearCrossEntropyValue, linear_cross_entropy
from lightning_losses.kernels.linear_distillation import (
    LinearDistillationValue,
    TeacherLogits,
    TopKLogits,
    linear_distillation,
)
from lightning_losses.kernels.linear_stablemax_cross_entropy import linear_stablemax_cross_entropy
from lightning_losses.kernels.rows import head_loss
from lightning_losses.losses import DKD, KD, NKD, Focal

pytestmark = pytest.mark.kernels

TOKENS, CLASSES = 12, 40


def focal(cross_entropy):
    return (-torch.expm1(-cross_entropy)) ** 2 * cross_entropy


def leaves(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    shapes = (TOKENS, 8), (CLASSES, 8), (CLASSES,)
    return [torch.randn(*shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]


def targets():
    target = torch.arange(TOKENS) * 3
    target[3] = -100
    return target


def teacher():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(TOKENS, 6, generator=generator), torch.randn(CLASSES, 6, generator=generator)


def weighed(values):
    """One number of everything that came, each with gradients of its own."""
    parts = [values] if isinstance(values, torch.Tensor) else [part for part in values if part is not None]
    weights = torch.linspace(-1, 2, TOKENS)
    return sum(
        (number + 1) * (part * weights[: len(part)] if part.ndim else part).sum() for number, part in enumerate(parts)
    )


KD_LOSS, NKD_LOSS, DKD_LOSS, FOCAL = KD(2.0), NKD(), DKD(), Focal()
CROSS_ENTROPY = {
    "mean": {},
    "options": {"label_smoothing": 0.1, "z_loss": 0.1, "softcap": 3.0, "impl": "chunked", "chunk": 5},
    "class weights": {"class_weight": torch.linspace(0.5, 2.0, CLASSES), "temperature": 0.7},
    "normalizer": {"normalizer": torch.tensor(7.0)},
    "a row function": {"row_function": focal},
    "rows": {"reduction": "none", "return_entropy": True, "return_log_probability": True},
    "a mean beside rows": {"return_lse": True, "return_z_loss": True, "z_loss": 0.1},
}
DISTILLATION = {
    "KD": {"objective": KD_LOSS, "hard_weight": 0.5},
    "NKD rows": {"objective": NKD_LOSS, "reduction": "none", "hard_weight": 0.5},
    "DKD": {"objective": DKD_LOSS, "soft_weight": 0.3},
}


def assert_compiled_equals_eager(step, dtype=torch.float32, backend="aot_eager"):
    torch._dynamo.reset()
    outcomes = []
    for function in (step, torch.compile(step, fullgraph=True, backend=backend)):
        operands = leaves(dtype)
        value = function(*operands)
        gradients = torch.autograd.grad(value, operands, allow_unused=True, materialize_grads=True)
        outcomes.append([value.detach(), *gradients])
    for eager, compiled in zip(*outcomes, strict=True):
        assert compiled.dtype == eager.dtype
        torch.testing.assert_close(compiled, eager)


@pytest.mark.parametrize("name", CROSS_ENTROPY)
def test_cross_entropy(name):
    target, options = targets(), CROSS_ENTROPY[name]
    assert_compiled_equals_eager(
        lambda hidden, weight, bias: weighed(linear_cross_entropy(hidden * 2, weight, target, bias, **options))
    )


@pytest.mark.parametrize("name", DISTILLATION)
def test_distillation(name):
    target, options, (hidden, weight) = targets(), DISTILLATION[name], teacher()
    assert_compiled_equals_eager(
        lambda h, w, bias: weighed(linear_distillation(h, w, hidden, weight, target, bias=bias, **options))
    )


def test_distillation_from_logits():
    target, logits = targets(), torch.randn(TOKENS, CLASSES, generator=torch.Generator().manual_seed(2))
    for given in (TopKLogits(*logits.topk(5)), TopKLogits.of(logits, 5), TeacherLogits(logits)):
        assert_compiled_equals_eager(
            lambda h, w, bias, given=given: linear_distillation(h, w, given, target=target, objective=KD_LOSS).loss
        )


def test_any_loss_of_a_head():
    target = targets()
    assert_compiled_equals_eager(lambda h, w, bias: chunked_head(FOCAL, h, w, target, bias))


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_stablemax(reduction):
    target = targets()
    assert_compiled_equals_eager(
        lambda h, w, bias: weighed(linear_stablemax_cross_entropy(h, w, target, bias, reduction=reduction))
    )


def test_under_autocast():
    def step(hidden, weight, bias):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return linear_cross_entropy(hidden, weight, target, bias)

    target = targets()
    assert_compiled_equals_eager(step)


def test_small_float16_gradients_survive_the_scaler():
    target = targets()
    assert_compiled_equals_eager(
        lambda hidden, weight, bias: 1e4 * linear_cross_entropy(hidden * 1e-3, weight, target, bias, impl="chunked"),
        torch.float16,
    )


def test_the_kinds_that_are_returned_are_those_of_the_eager_call():
    target, (hidden, weight) = targets(), teacher()

    def both(h, w):
        value = linear_cross_entropy(h, w, target, return_entropy=True)
        return value, linear_distillation(h, w, hidden, weight, target, objective=KD_LOSS)

    value, distilled = torch.compile(both, fullgraph=True, backend="eager")(*leaves()[:2])
    assert isinstance(value, LinearCrossEntropyValue) and value.lse is None and value.entropy.shape == (TOKENS,)
    assert isinstance(distilled, LinearDistillationValue) and distilled.hard is None


def test_a_setting_that_changes_is_heeded():
    target, (hidden, weight) = targets(), teacher()
    loss = KD(2.0)
    step = torch.compile(
        lambda h, w: linear_distillation(h, w, hidden, weight, target, objective=loss).loss,
        fullgraph=True,
        backend="aot_eager",
    )
    operands = leaves()[:2]
    before = step(*operands)
    loss.temperature = 4.0
    after = step(*operands)
    assert before != after
    torch.testing.assert_close(after, linear_distillation(*operands, hidden, weight, target, objective=KD(4.0)).loss)


def test_a_wrong_call_is_refused_when_the_graph_runs():
    step = torch.compile(
        lambda h, w: linear_cross_entropy(h, w, torch.full((TOKENS,), CLASSES)), fullgraph=True, backend="aot_eager"
    )
    with pytest.raises(ValueError, match="target 40 came with a vocabulary of 40"):
        step(*leaves()[:2])


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_higher_derivatives_are_refused(reduction):
    hidden, weight, bias = leaves()
    target = targets()
    torch._dynamo.reset()
    step = torch.compile(
        lambda h: linear_cross_entropy(h, weight, target, bias, reduction=reduction).sum(), backend="eager"
    )
    with pytest.raises(RuntimeError, match="create_graph=True came through a compiled call of a head"):
        torch.autograd.grad(step(hidden), [hidden], create_graph=True)


def test_each_pass_makes_the_scores_of_rows_once(monkeypatch):
    """The backward pass reads what the forward pass noted: four products of cross-entropy, not five."""
    calls, target, (hidden, weight) = [], targets(), teacher()
    for place, name in ((Recomputed, "statistics"), (Recomputed, "gradients"), (head_loss, "walk")):
        made = getattr(place, name)
        noted = lambda *given, made=made, name=name, **asked: (calls.append(name), made(*given, **asked))[1]  # noqa: E731
        monkeypatch.setattr(place, name, noted)
    assert_compiled_equals_eager(
        lambda h, w, bias: weighed(
            linear_cross_entropy(
                *(h, w, target, bias), label_smoothing=0.1, reduction="none", return_entropy=True, impl="recompute"
            )
        )
    )
    assert calls == ["statistics", "gradients"] * 2
    calls.clear()
    options = {"reduction": "none", "hard_weight": 0.5, "objective": NKD_LOSS, "impl": "chunked"}
    assert_compiled_equals_eager(
        lambda h, w, bias: weighed(linear_distillation(h, w, hidden, weight, target, bias=bias, **options))
    )
    assert calls == ["walk"] * 4
