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
from lightning_losses.kernels.linear_emo import linear_emo
from lightning_losses.kernels.linear_margin_loss import linear_margin_loss
from lightning_losses.kernels.linear_noisefit import linear_noisefit
from lightning_losses.kernels.linear_spherical_z_loss import linear_spherical_z_loss
from lightning_losses.kernels.linear_stablemax_cross_entropy import linear_stablemax_cross_entropy
from lightning_losses.kernels.rows import head_loss
from lightning_losses.kernels.token_record import token_record
from lightning_losses.kernels.vocab_parallel import vocab_parallel_cross_entropy
from lightning_losses.losses import DKD, EMO, KD, NKD, CosFace, Focal, NoiseFiT

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


KD_LOSS, NKD_LOSS, DKD_LOSS, FOCAL, COSFACE, EMO_LOSS = KD(2.0), NKD(), DKD(), Focal(), CosFace(), EMO()
NOISEFIT = NoiseFiT()
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


def test_large_float16_gradients_stay_finite():
    """A sum that is divided afterwards: its gradient leaves the range of float16 before the division."""
    target = torch.zeros(256, dtype=torch.int64)
    for impl in ("chunked", "recompute", "reference"):
        assert_compiled_equals_eager(
            lambda hidden, weight, bias, impl=impl: (
                linear_cross_entropy(
                    hidden[:1].expand(256, -1) + 1, weight, target, bias, reduction="sum", impl=impl
                ).sum()
                / 256
            ),
            torch.float16,
        )


CHANGING = {
    "normalizer": [7, 9, 12, 5],
    "float normalizer": [7.5, 9.25, 12.1, 5.3],
    "temperature": [0.7, 1.3, 2.0],
    "softcap": [3.0, 4.5, 6.0],
    "chunk": [4, 5, 7],
    "tiles": [(4, 8), (5, 9), (7, 10)],
    "shift": [1, 2, 3],
    "z_loss": [0.1, 0.2, 0.3],
    "label_smoothing": [0.1, 0.2, 0.3],
    "several": [(0.7, 3, 3.0), (0.8, 4, 4.0), (0.9, 5, 5.0)],
}


def changing(name, value):
    """The options of a cross-entropy that takes this value."""
    if name == "several":
        return dict(zip(("temperature", "chunk", "softcap"), value, strict=True))
    if name == "tiles":
        return {"chunk": value, "impl": "recompute"}
    return {name.rpartition(" ")[2]: value}


def assert_changes_are_heeded(step, values, backend="aot_eager", dynamic=None):
    """A step that takes a number gives for each of them, in one graph, what it gives without the compiler."""
    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, backend=backend, dynamic=dynamic)
    for value in values:
        outcomes = []
        for function in (step, compiled):
            operands = leaves()
            result = function(value, *operands)
            outcomes.append([result, *torch.autograd.grad(result, operands, allow_unused=True)])
        torch.testing.assert_close(*outcomes[::-1])


@pytest.mark.one_graph
@pytest.mark.parametrize(
    ("name", "reduction"),
    [(name, reduction) for name in CHANGING for reduction in ("mean", "none")[: 1 if "normalizer" in name else 2]],
)
def test_a_number_that_changes(name, reduction):
    target = targets()
    assert_changes_are_heeded(
        lambda value, h, w, bias: weighed(
            linear_cross_entropy(h, w, target, bias, reduction=reduction, **changing(name, value))
        ),
        CHANGING[name],
    )


@pytest.mark.one_graph
@pytest.mark.parametrize(("backend", "dynamic"), [("eager", None), ("eager", True), ("inductor", None)])
def test_a_number_that_changes_by_other_compilers(backend, dynamic):
    target = targets()
    assert_changes_are_heeded(
        lambda value, h, w, bias: linear_cross_entropy(
            h, w, target, bias, normalizer=value, temperature=value / 3, chunk=5
        ),
        [7.5, 9.25, 12.1],
        backend,
        dynamic,
    )


@pytest.mark.one_graph
def test_a_changed_number_is_traced_once():
    """Its later values need no graph of their own: the compiler makes only so many."""
    target = targets()
    with torch._dynamo.config.patch(recompile_limit=3):
        for step in (lambda n: {"normalizer": n}, lambda n: {"normalizer": n + 0.5}, lambda n: {"temperature": n / 7}):
            assert_changes_are_heeded(
                lambda value, h, w, bias, step=step: linear_cross_entropy(h, w, target, bias, **step(value)),
                range(5, 11),
            )


@pytest.mark.one_graph
def test_a_batch_of_another_size_normalizes_by_its_own():
    target = targets()
    for of in (lambda labels: labels.numel(), lambda labels: labels.numel() / 2):
        assert_changes_are_heeded(
            lambda count, h, w, bias, of=of: linear_cross_entropy(
                h[: len(count)], w, target[: len(count)], bias, normalizer=of(count)
            ),
            [torch.zeros(size) for size in (12, 8, 6, 5)],
        )


@pytest.mark.one_graph
def test_a_modules_number_that_changes():
    class Step(torch.nn.Module):
        z_loss = 0.1

        def forward(self, hidden, weight):
            return linear_cross_entropy(hidden, weight, targets(), z_loss=self.z_loss)

    step = Step()
    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for step.z_loss in (0.1, 0.2, 0.3, 0.4):
        outcomes = []
        for function in (step, compiled):
            operands = leaves()[:2]
            value = function(*operands)
            outcomes.append([value, *torch.autograd.grad(value, operands)])
        torch.testing.assert_close(*outcomes)


@pytest.mark.one_graph
@pytest.mark.parametrize("name", ["hard_weight", "soft_weight", "shift", "chunk", "normalizer"])
def test_a_number_of_a_distillation_that_changes(name):
    target, (hidden, weight) = targets(), teacher()
    values = [3, 4, 5] if name in ("shift", "chunk") else [0.3, 0.5, 0.7]
    assert_changes_are_heeded(
        lambda value, h, w, bias: weighed(
            linear_distillation(h, w, hidden, weight, target, bias=bias, objective=KD_LOSS, **{name: value})
        ),
        values,
    )


@pytest.mark.one_graph
def test_a_number_of_the_other_heads_that_changes():
    target = targets()
    heads = (
        lambda n, h, w, bias: chunked_head(FOCAL, h, w, target, bias, normalizer=n, chunk=int(n)),
        lambda n, h, w, bias: linear_stablemax_cross_entropy(h, w, target, bias, label_smoothing=n / 20),
        lambda n, h, w, bias: linear_emo(EMO_LOSS, h, w, target, bias, normalizer=n, softcap=n),
        lambda n, h, w, bias: linear_margin_loss(COSFACE, h, w, target, normalizer=n, chunk=int(n)),
        lambda n, h, w, bias: vocab_parallel_cross_entropy(h, w, target, bias, normalizer=n, z_loss=n / 10).loss,
    )
    for head in heads:
        assert_changes_are_heeded(head, [3.5, 5.5, 7.5])


@pytest.mark.one_graph
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_spherical_z_loss(reduction):
    target = targets()

    def step(value, h, w, bias):
        return weighed(linear_spherical_z_loss(h, w, target, reduction=reduction, a=value, b=4 * value))

    assert_changes_are_heeded(step, [0.5, 0.7, 1.1])


@pytest.mark.one_graph
@pytest.mark.parametrize("wrong", [-1, CLASSES])
def test_a_spherical_z_loss_of_a_wrong_target_is_refused(wrong):
    torch._dynamo.reset()
    step = torch.compile(linear_spherical_z_loss, fullgraph=True, backend="aot_eager")
    with pytest.raises(RuntimeError, match="no class of a vocabulary of 40; give 0 to 39, or ignore_index=-100"):
        step(*leaves()[:2], torch.full((TOKENS,), wrong))


@pytest.mark.one_graph
@pytest.mark.parametrize(
    ("name", "reduction"), [("softcap", "mean"), ("normalizer", "mean"), ("chunk", "sum"), ("chunk", "none")]
)
def test_noisefit(name, reduction):
    target = targets()

    def step(value, h, w, bias):
        options = {"reduction": reduction, name: value}
        return weighed(linear_noisefit(NOISEFIT, h, h.flip(0) * 2, h.sin(), w, target, bias, **options))

    assert_changes_are_heeded(step, [4, 5, 7])


@pytest.mark.one_graph
@pytest.mark.parametrize(
    ("step", "message"),
    [
        (lambda h, w, t: linear_spherical_z_loss(h, w, t, a=0.0), "linear_spherical_z_loss: a=0.0 came; give a number"),
        (lambda h, w, t: token_record(h, w, t, temperature=-1.0).logps, "temperature=-1.0 came; give a number above 0"),
        (lambda h, w, t: token_record(h, w, t, softcap=0.0, ranks=True).ranks, "softcap=0.0 came; give a number above"),
    ],
)
def test_a_wrong_number_is_refused(step, message):
    torch._dynamo.reset()
    for function in (step, torch.compile(step, fullgraph=True, backend="aot_eager")):
        with pytest.raises(Exception, match=message):
            function(*leaves()[:2], targets())


@pytest.mark.one_graph
def test_noisefit_under_autocast():
    target = targets()

    def step(hidden, weight, bias):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return linear_noisefit(NOISEFIT, hidden, hidden.flip(0), hidden * 2, weight, target, bias)

    assert_compiled_equals_eager(step)


@pytest.mark.one_graph
@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("name", ["temperature", "softcap", "chunk", "shift"])
def test_token_record(name, trained):
    target = targets()
    everything = dict.fromkeys(("entropies", "log_collisions", "variances", "ranks"), True)

    def step(value, h, w, bias):
        with torch.set_grad_enabled(trained):
            record = token_record(h, w, target, bias, **{name: value}, **everything)
        assert record.ranks.dtype == torch.int64 and not record.variances.requires_grad
        return weighed(record) + 0 * h.sum()

    assert_changes_are_heeded(step, [3, 4, 5] if name in ("chunk", "shift") else [0.7, 1.5, 2.5])
