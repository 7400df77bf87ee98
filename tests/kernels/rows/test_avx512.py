"""The compiled walk of distillation; on a CPU or a machine that can't have it, only what is said about that."""

import itertools

import pytest
import torch

from lightning_losses import losses
from lightning_losses.kernels.compiled import library
from lightning_losses.kernels.linear_distillation import TeacherLogits, TopKLogits, linear_distillation
from lightning_losses.kernels.rows import avx512
from lightning_losses.kernels.rows.avx512 import refuses_walk
from lightning_losses.kernels.rows.teachers import TeacherHead
from lightning_losses.numerics.reduction import reduce
from tests.kernels.rows.divergences import OBJECTIVES, of_class

pytestmark = pytest.mark.kernels

HARD = {"hard_weight": 0.3, "soft_weight": 0.7}
# float32's rounding, and of bfloat16's products two.
TOLERANCE = {torch.float32: 5e-6, torch.bfloat16: 1e-2}


def lacking(dtype):
    eye = torch.eye(2, dtype=dtype)
    return refuses_walk(losses.KD(), eye, eye, TeacherHead(eye, eye), None)


needs = {dtype: pytest.mark.skipif(lacking(dtype) is not None, reason=str(lacking(dtype))) for dtype in TOLERANCE}
in_float32 = needs[torch.float32]
in_both = pytest.mark.parametrize("dtype", [pytest.param(dtype, marks=needs[dtype]) for dtype in TOLERANCE])


def problem(dtype, tokens=21, width=9, teacher_width=12, vocabulary=50, scale=1.0):
    """Student's hidden states, weight and bias, then the teacher's, rounded to `dtype`; and targets."""
    generator = torch.Generator().manual_seed(3)
    shapes = [(tokens, width), (vocabulary, width), (vocabulary,)]
    shapes += [(tokens, teacher_width), (vocabulary, teacher_width), (vocabulary,)]
    tensors = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    for states in (tensors[0], tensors[3]):
        states.mul_(scale * states.shape[1] ** -0.5)
    return [tensor.to(dtype) for tensor in tensors], torch.randint(vocabulary, (tokens,), generator=generator)


def call(tensors, target, objective, **options):
    names = ("hidden", "weight", "bias", "teacher_hidden", "teacher_weight", "teacher_bias")
    given = {**dict(zip(names, tensors, strict=True)), "target": target, **options}
    return linear_distillation(**given, objective=objective, impl="avx512")


def assert_equals_float64(name, tensors, target, options=None, *, ignored=False, teacher=None, teacher_logits=None):
    """Value, parts and gradients, to a tolerance that is relative to their norms."""
    options, objective, dtype = options or {}, OBJECTIVES[name], tensors[0].dtype
    kept = torch.ones(len(target), dtype=torch.bool)
    exact = [tensor.double() for tensor in tensors]
    tensors = [tensor.clone() for tensor in tensors]
    if ignored:
        kept[1::3] = False
        tensors[0][~kept] = torch.nan
    for each in (tensors, exact):
        each[:3] = [tensor.requires_grad_() for tensor in each[:3]]
    value = call(tensors, torch.where(kept, target, -100), objective, **options, **(teacher or {}))
    wanted, (soft, hard) = of_class(objective, exact, target, kept, options, teacher_logits)
    weights = torch.linspace(-1, 2, len(target)) if options.get("reduction") == "none" else torch.tensor(-1.5)
    found = [value.loss, value.soft, *torch.autograd.grad((weights * value.loss).sum(), tensors[:3])]
    gradients = torch.autograd.grad((weights.double() * wanted).sum(), exact[:3])
    right = [wanted, reduce(soft, options.get("reduction", "mean"), kept), *gradients]
    if "hard_weight" in options:
        found.append(value.hard)
        right.append(reduce(hard, options.get("reduction", "mean"), kept))
    for one, other in zip(found, right, strict=True):
        assert (one.double() - other).norm() <= TOLERANCE[dtype] * other.norm() + 1e-12
    assert (found[2][~kept] == 0).all()


@in_both
@pytest.mark.parametrize("name", OBJECTIVES)
def test_equals_the_losses_in_float64(name, dtype):
    tensors, target = problem(dtype)
    for options in ({}, HARD, {"reduction": "sum", "chunk": 5}, {**HARD, "reduction": "none", "chunk": 16}):
        assert_equals_float64(name, tensors, target, options)


@in_float32
@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("drop_ignored", [True, False])
def test_ignored_tokens_reach_nothing(name, drop_ignored):
    tensors, target = problem(torch.float32)
    for options in ({}, {**HARD, "reduction": "none"}):
        assert_equals_float64(name, tensors, target, {**options, "drop_ignored": drop_ignored}, ignored=True)


@in_float32
@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("networks", [(2,), (5,), (2, 5)], ids=["student", "teacher", "both"])
def test_masked_classes_add_nothing(name, networks):
    tensors, target = problem(torch.float32)
    for bias in networks:
        tensors[bias][[5, 30]] = -torch.inf
    target = torch.where((target == 5) | (target == 30), 7, target)
    assert_equals_float64(name, tensors, target, HARD)


# Below, at and above: 6 rows in registers, 16 lanes, panels of 64, tiles of 96 units, blocks of 48, a depth of 512
# units; an odd width and an odd number of tokens, whose last bfloat16 number has no neighbour.
@in_both
@pytest.mark.parametrize(
    ("tokens", "width", "teacher_width", "vocabulary"),
    [(1, 1, 2, 2), (15, 2, 1, 7), (17, 65, 64, 97), (64, 63, 5, 96), (65, 130, 130, 193), (130, 1030, 33, 400)],
)
@pytest.mark.parametrize("threads", [1, 3])
def test_odd_shapes(monkeypatch, dtype, tokens, width, teacher_width, vocabulary, threads):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    tensors, target = problem(dtype, tokens, width, teacher_width, vocabulary)
    for name, chunk in itertools.product(("kd", "jsd", "nkd"), (None, 5)):
        assert_equals_float64(name, tensors, target, {**HARD, "chunk": chunk})


@in_both
@pytest.mark.parametrize("name", ["kd", "reverse_kl", "jsd", "nkd", "nkd_softened"])
def test_other_teachers(name, dtype):
    tensors, target = problem(dtype)
    full = (tensors[3] @ tensors[4].t() + tensors[5]).detach()
    none = {"teacher_weight": None, "teacher_bias": None}
    logits = {**none, "teacher_hidden": TeacherLogits(full)}
    assert_equals_float64(name, tensors, target, HARD, teacher=logits, teacher_logits=full.double())
    values, classes = full.topk(9, dim=1)
    few = torch.full_like(full, -torch.inf).scatter_(1, classes, values).double()
    cache = {**none, "teacher_hidden": TopKLogits(values, classes)}
    assert_equals_float64(name, tensors, target, HARD, teacher=cache, teacher_logits=few)
    tail = {**none, "teacher_hidden": (cache := TopKLogits.of(full, 9))}
    few = cache.rest.unsqueeze(1).expand_as(full).scatter(1, cache.classes, cache.values).double()
    assert_equals_float64(name, tensors, target, HARD, teacher=tail, teacher_logits=few)
    other = {"teacher_hidden": tensors[3].double(), "teacher_weight": tensors[4].double()}
    assert_equals_float64(name, tensors, target, HARD, teacher=other)


@in_float32
@pytest.mark.parametrize("name", ["kd", "reverse_kl", "symmetric_kl", "nkd", "ab"])
def test_scores_out_of_range_are_shifted(name):
    # Beside cross-entropy: where both networks are sure, a bounded divergence alone has a gradient of rounding.
    tensors, target = problem(torch.float32, scale=40.0)
    objective, exact = OBJECTIVES[name], [tensor.double() for tensor in tensors]
    for each in (tensors, exact):
        each[:3] = [tensor.requires_grad_() for tensor in each[:3]]
    value = call(tensors, target, objective, **HARD)
    wanted, _ = of_class(objective, exact, target, target >= 0, HARD)
    pairs = zip(torch.autograd.grad(value.loss, tensors[:3]), torch.autograd.grad(wanted, exact[:3]), strict=True)
    torch.testing.assert_close(value.loss.double(), wanted, rtol=1e-6, atol=0)
    assert all((one.double() - other).norm() <= 5e-5 * other.norm() for one, other in pairs)


@in_float32
def test_a_sure_student_keeps_the_small_gradient_of_a_bounded_divergence():
    # s = 1 - 1e-6: the gradient is a difference of products with s, which a logsumexp of one float would drown.
    weight = torch.tensor([[40.0], [26.2], [26.0]])
    teacher = torch.tensor([[0.0], [1.0], [2.0]])
    tensors = [torch.ones(1, 1), weight, torch.zeros(3), torch.ones(1, 1), teacher, torch.zeros(3)]
    exact = [tensor.double() for tensor in tensors]
    for each in (tensors, exact):
        each[1].requires_grad_()
    for name in ("jsd", "total_variation"):
        target = torch.zeros(1, dtype=torch.int64)
        found = torch.autograd.grad(call(tensors, target, OBJECTIVES[name]).loss, tensors[1])[0]
        wanted, _ = of_class(OBJECTIVES[name], exact, target, target >= 0, {})
        right = torch.autograd.grad(wanted, exact[1])[0]
        assert (found.double() - right).norm() <= 0.1 * right.norm()


@in_float32
@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("place", [0, 3], ids=["student", "teacher"])
def test_a_row_that_is_not_a_number_stays_so_and_alone(name, place):
    tensors, target = problem(torch.float32, tokens=5)
    tensors[place][2] = torch.nan
    value = call(tensors, target, OBJECTIVES[name], reduction="none").loss
    assert value.isnan().tolist() == [False, False, True, False, False]


@in_both
def test_only_what_requires_a_gradient_gets_one(dtype):
    tensors, target = problem(dtype)
    whole = [tensor.clone().requires_grad_() for tensor in tensors[:3]] + tensors[3:]
    gradients = torch.autograd.grad(call(whole, target, losses.KD(), **HARD).loss, whole[:3])
    for number in range(3):
        alone = [tensor.clone().requires_grad_(n == number) for n, tensor in enumerate(tensors)]
        call(alone, target, losses.KD(), **HARD).loss.backward()
        assert [tensor.grad is not None for tensor in alone] == [n == number for n in range(6)]
        torch.testing.assert_close(alone[number].grad, gradients[number], rtol=0, atol=0)
    with torch.no_grad():
        assert not call(tensors, target, losses.KD()).loss.requires_grad


@in_both
def test_no_tokens_are_0_with_gradients_of_0(dtype):
    tensors, target = problem(dtype, tokens=0)
    tensors[:3] = [tensor.requires_grad_() for tensor in tensors[:3]]
    loss = call(tensors, target, losses.GeneralizedJSD(), **HARD).loss
    assert loss == 0 and all((g == 0).all() for g in torch.autograd.grad(loss, tensors[:3]))


@in_both
def test_a_float32_sum_is_closer(dtype):
    tensors, target = problem(dtype, tokens=256)
    gradients = []
    for options in ({"accum_dtype": torch.float32}, {}):
        leaf = tensors[1].clone().requires_grad_()
        value = call([tensors[0], leaf, *tensors[2:]], target, losses.KD(), chunk=16, **options).loss
        gradients.append(torch.autograd.grad(value, leaf)[0].double())
    exact = [tensor.double() for tensor in tensors]
    wanted, _ = of_class(losses.KD(), [exact[0], exact[1].requires_grad_(), *exact[2:]], target, target >= 0, {})
    right = torch.autograd.grad(wanted, exact[1])[0]
    errors = [float((gradient - right).norm()) for gradient in gradients]
    assert errors[0] == errors[1] if dtype == torch.float32 else errors[0] < 0.7 * errors[1]


@in_float32
@pytest.mark.parametrize("name", ["kd", "jsd"])
def test_sums_over_a_large_vocabulary_keep_their_digits(name):
    tensors, target = problem(torch.float32, tokens=16, vocabulary=100_000)
    exact = [tensor.double() for tensor in tensors]
    for each in (tensors, exact):
        each[0].requires_grad_()
    found = torch.autograd.grad(call(tensors, target, OBJECTIVES[name]).loss, tensors[0])[0]
    wanted, _ = of_class(OBJECTIVES[name], exact, target, target >= 0, {})
    right = torch.autograd.grad(wanted, exact[0])[0]
    # Added one by one they would be 5e-6 off.
    assert (found.double() - right).norm() <= 1.5e-6 * right.norm()


@in_float32
def test_threads_only_move_roundings_and_a_rerun_moves_nothing(monkeypatch):
    tensors, target = problem(torch.float32, vocabulary=900)
    results = []
    for threads in (1, 1, 2, 2):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        leaf = tensors[0].clone().requires_grad_()
        loss = call([leaf, *tensors[1:]], target, losses.GeneralizedJSD(), chunk=8).loss
        results.append(torch.autograd.grad(loss, leaf)[0])
    assert torch.equal(results[0], results[1]) and torch.equal(results[2], results[3])
    torch.testing.assert_close(results[0], results[2], rtol=1e-4, atol=1e-7)


def test_auto_takes_it_where_it_was_measured(monkeypatch):
    flags = frozenset((*library.NEEDED, "avx512_bf16"))
    monkeypatch.setattr(library, "cpu_flags", lambda: flags)
    monkeypatch.setattr(library, "cpu_vendor", lambda: "AuthenticAMD")
    monkeypatch.setattr(library, "load", lambda source: library.Library(None))
    eye = torch.eye(3)
    given = (losses.KD(), eye, eye, TeacherHead(eye, eye), None)
    assert avx512.fastest(*given)
    assert not avx512.fastest(losses.DKD(), *given[1:])
    assert not avx512.fastest(*given[:3], None, None)
    assert not avx512.fastest(losses.KD(), eye.double(), eye.double(), *given[3:])
    monkeypatch.setattr(library, "cpu_flags", lambda: flags | {"amx_bf16"})
    assert avx512.fastest(*given) and not avx512.fastest(losses.KD(), eye.bfloat16(), eye.bfloat16(), *given[3:])
    monkeypatch.setattr(library, "cpu_vendor", lambda: "GenuineIntel")
    assert not avx512.fastest(*given)


@in_float32
def test_auto_and_the_name_give_the_same(monkeypatch):
    monkeypatch.setattr(library, "cpu_vendor", lambda: "AuthenticAMD")
    tensors, target = problem(torch.float32)
    by_name = call(tensors, target, losses.KD()).loss
    auto = linear_distillation(
        *tensors[:2], *tensors[3:5], target, objective=losses.KD(), bias=tensors[2], teacher_bias=tensors[5]
    )
    assert auto.loss == by_name


@pytest.mark.parametrize(
    ("dtype", "objective", "message"),
    [
        (torch.float64, losses.KD(), "can't take this: .* not torch.float64.*; use 'chunked'"),
        (torch.float32, losses.DKD(), "no functions for this one; use 'auto'"),
    ],
)
def test_what_it_cannot_do_is_refused(dtype, objective, message):
    tensors, target = problem(dtype)
    with pytest.raises(ValueError, match=message):
        call(tensors, target, objective)
