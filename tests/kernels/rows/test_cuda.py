"""Distillation between two heads on a GPU: against float64, without a wait of the host, in a captured step."""

import pytest
import torch

from lightning_losses import losses
from lightning_losses.kernels.linear_distillation import TeacherLogits, TopKLogits, linear_distillation
from tests.kernels.on_cuda import (  # noqa: F401 - the fixture is used by its name
    assert_captured_equals_eager,
    assert_the_host_never_waits,
    full_precision,
)
from tests.kernels.rows.divergences import OBJECTIVES, of_class

pytestmark = [pytest.mark.kernels, pytest.mark.cuda, pytest.mark.usefixtures("full_precision")]

# bfloat16's and float16's scores and gradients are rounded to 8 and 11 bits.
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}
OTHERS = {"dkd": losses.DKD(), "bdkd": losses.BDKD(), "skew_kl_1": losses.SkewKL(1.0)}
TOKENS, WIDTH, TEACHER_WIDTH = 512, 256, 384


def operands(dtype, vocabulary=4096):
    """Student's hidden states, weight and bias, then the teacher's; and targets, of which some are ignored."""
    generator = torch.Generator().manual_seed(11)
    shapes = [(TOKENS, WIDTH), (vocabulary, WIDTH), (vocabulary,)]
    shapes += [(TOKENS, TEACHER_WIDTH), (vocabulary, TEACHER_WIDTH), (vocabulary,)]
    tensors = [torch.randn(shape, generator=generator).mul(0.3).to("cuda", dtype) for shape in shapes]
    target = torch.randint(vocabulary, (TOKENS,), generator=generator).cuda()
    target[::7] = -100
    return tensors, target


def heads(tensors):
    """The arguments of a call with both heads."""
    hidden, weight, bias, teacher_hidden, teacher_weight, teacher_bias = tensors
    given = {"teacher_hidden": teacher_hidden, "teacher_weight": teacher_weight, "teacher_bias": teacher_bias}
    return {"hidden": hidden, "weight": weight, "bias": bias, **given}


def assert_equals_float64(objective, dtype, options, vocabulary=4096, upstream=None, given=None, logits=None):
    if upstream is None:
        # As a loss scaler has it: entries of a mean's gradient lie among float16's subnormal numbers.
        upstream = 2.0**12 if dtype == torch.float16 else 1.5
    tensors, target = operands(dtype, vocabulary)
    kept = target != -100
    exact = [tensor.double() for tensor in tensors]
    for each in (tensors, exact):
        each[:3] = [tensor.requires_grad_() for tensor in each[:3]]
    call = (
        heads(tensors) if given is None else {**heads(tensors), "teacher_weight": None, "teacher_bias": None, **given}
    )
    value = linear_distillation(**call, target=target, objective=objective, **{"chunk": 128, **options}).loss
    wanted, _ = of_class(objective, exact, target.clamp(min=0), kept, options, logits)
    weights = torch.linspace(-1, 2, TOKENS, device="cuda") if options.get("reduction") == "none" else upstream
    found = [value, *torch.autograd.grad((weights * value).sum(), tensors[:3])]
    right = [wanted, *torch.autograd.grad((weights * wanted).sum(), exact[:3])]
    # The sign of a difference between rounded scores is that of their rounding in a few classes.
    signs = isinstance(objective, losses.TotalVariation) and dtype != torch.float32
    for one, other in zip(found, right, strict=True):
        assert (one.double() - other).norm() <= TOLERANCE[dtype] * (10 if signs else 1) * other.norm().clamp(min=1e-6)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_equals_float64(name, dtype):
    assert_equals_float64(OBJECTIVES[name], dtype, {})
    assert_equals_float64(OBJECTIVES[name], dtype, {"hard_weight": 0.3, "soft_weight": 0.7, "reduction": "none"})


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", OTHERS)
def test_other_objectives_equal_float64_by_autograd(name, dtype):
    assert_equals_float64(OTHERS[name], dtype, {"hard_weight": 0.3})


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("vocabulary", [4099, 2, 16])
def test_odd_vocabularies(dtype, vocabulary):
    for objective in (losses.KD(2.0), losses.GeneralizedJSD(), losses.NKD()):
        assert_equals_float64(objective, dtype, {"hard_weight": 0.3}, vocabulary)


@pytest.mark.parametrize("options", [{"accum_dtype": torch.float32}, {"chunk": None}, {"drop_ignored": True}], ids=str)
def test_options(options):
    assert_equals_float64(losses.KD(2.0), torch.bfloat16, options)


def test_float16_survives_a_loss_scaler_and_a_mean_over_many_tokens():
    options = {"normalizer": 2.0**17, "hard_weight": 0.3}
    assert_equals_float64(losses.KD(2.0), torch.float16, options, upstream=2.0**16)


@pytest.mark.parametrize("vocabulary", [4096, 4099])
@pytest.mark.parametrize("kind", ["cache", "logits", "view"])
def test_teachers_as_logits(kind, vocabulary):
    tensors, _ = operands(torch.bfloat16, vocabulary)
    full = tensors[3] @ tensors[4].t() + tensors[5]
    given = {"teacher_hidden": TeacherLogits(full)}
    if kind == "cache":
        values, classes = full.topk(64, dim=1)
        given = {"teacher_hidden": TopKLogits(values, classes)}
        full = torch.full_like(full, -torch.inf).scatter_(1, classes, values)
    elif kind == "view":
        wide = torch.cat([full, full], dim=1)
        full = wide[:, 3 : 3 + vocabulary]
        given = {"teacher_hidden": TeacherLogits(full)}
    before = full.clone()
    for objective in (losses.KD(2.0), losses.NKD(), losses.ReverseKL()):
        assert_equals_float64(
            objective, torch.bfloat16, {"hard_weight": 0.3}, vocabulary, given=given, logits=full.double()
        )
    assert torch.equal(full, before)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("name", [*OBJECTIVES, *OTHERS])
def test_the_host_never_waits(name, reduction):
    tensors, target = operands(torch.bfloat16)
    tensors[:3] = [tensor.requires_grad_() for tensor in tensors[:3]]
    objective = {**OBJECTIVES, **OTHERS}[name]

    def step():
        options = {"hard_weight": 0.3, "reduction": reduction}
        linear_distillation(**heads(tensors), target=target, objective=objective, **options).loss.mean().backward()

    assert_the_host_never_waits(step)
    assert all(tensor.grad.isfinite().all() for tensor in tensors[:3])


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("name", ["kd", "jsd", "nkd"])
def test_a_captured_step_gives_what_an_eager_one_gives(name, reduction):
    tensors, target = operands(torch.bfloat16)
    leaves = tensors[:3] = [tensor.requires_grad_() for tensor in tensors[:3]]

    def step():
        options = {"hard_weight": 0.3, "reduction": reduction}
        loss = linear_distillation(**heads(tensors), target=target, objective=OBJECTIVES[name], **options).loss.mean()
        return [loss.detach(), *torch.autograd.grad(loss, leaves)]

    assert_captured_equals_eager(step, leaves[0], target)


def test_memory_is_two_chunks():
    tensors, target = operands(torch.bfloat16, 65536)
    tensors[:2] = [tensor.requires_grad_() for tensor in tensors[:2]]
    linear_distillation(**heads(tensors), target=target, objective=losses.KD(2.0), chunk=128).loss.backward()
    gradients = sum(tensor.nbytes for tensor in tensors[:2])
    for tensor in tensors[:2]:
        tensor.grad = None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    linear_distillation(**heads(tensors), target=target, objective=losses.KD(2.0), chunk=128).loss.backward()
    chunks = 2 * 128 * 65536 * 2
    assert torch.cuda.max_memory_allocated() - before <= gradients + 1.1 * chunks


def test_a_target_outside_the_vocabulary_makes_the_value_no_number():
    tensors, target = operands(torch.bfloat16)
    target[0] = 4096
    for objective, hard_weight in ((losses.KD(2.0), 0.3), (losses.NKD(), 0.0)):
        value = linear_distillation(**heads(tensors), target=target, objective=objective, hard_weight=hard_weight)
        assert value.loss.isnan()
