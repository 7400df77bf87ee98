"""The compiled walks; on a CPU or a machine that can't have them, only what is said about that."""

import dataclasses
import json
import os
import shutil
import subprocess

import pytest
import torch

from lightning_losses.kernels.autograd import Operands
from lightning_losses.kernels.choice import choose_implementation
from lightning_losses.kernels.compiled import library
from lightning_losses.kernels.cross_entropy.avx512 import Avx512Scores, default_chunk, unsupported
from lightning_losses.kernels.cross_entropy.chunked import sums_and_gradients
from lightning_losses.kernels.cross_entropy.problem import Problem
from lightning_losses.kernels.cross_entropy.walk import TokenWalk
from lightning_losses.kernels.head import Head
from lightning_losses.kernels.linear_cross_entropy import linear_cross_entropy
from lightning_losses.kernels.terms import Alone, Terms
from lightning_losses.numerics import products
from tests.golden.adapters.lm_ot import cross_entropy_adapter
from tests.golden.harness import HERE, load_cases, run_case
from tests.kernels.test_linear_cross_entropy import (
    OPTIONS,
    SMOOTHED,
    assert_same,
    evaluate,
    masked_problem,
    problem,
    settled,
)

pytestmark = pytest.mark.kernels

COMPILING = library.load.__wrapped__
DTYPES = [torch.float32, torch.bfloat16]
LARGE = torch.zeros(200_000, 8)


def lacking(dtype):
    return unsupported(torch.zeros(1, 1, dtype=dtype), torch.zeros(1, 1, dtype=dtype))


needs = {
    dtype: pytest.mark.skipif(lacking(dtype) is not None, reason=f"impl='avx512': {lacking(dtype)}") for dtype in DTYPES
}
in_float32 = needs[torch.float32]
in_both = pytest.mark.parametrize("dtype", [pytest.param(dtype, marks=needs[dtype]) for dtype in DTYPES])


def as_float64(call):
    return tuple(t.detach().double().requires_grad_() if t is not None and t.is_floating_point() else t for t in call)


def assert_close_to_exact(call, upstream=1.0, **options):
    """Within float32's rounding of the reference in float64; within bfloat16's, of which products take two."""
    found = evaluate(call, upstream, impl="avx512", **options)
    options.pop("chunk", None), options.pop("accum_dtype", None)
    exact = evaluate(as_float64(call), upstream, impl="reference", **options)
    error = 2e-5 if call[0].dtype == torch.float32 else 1e-2
    torch.testing.assert_close(found[0].double(), exact[0], rtol=1e-5, atol=1e-5)
    for one, other in zip(found[1:], exact[1:], strict=True):
        assert (one.double() - other).norm() <= error * other.norm() + 1e-12
    return found


@in_both
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_equals_the_reference(dtype, name, bias):
    call = problem(dtype, tokens=(3, 30), width=9, vocabulary=50, bias=bias)
    assert_close_to_exact(call, -2.5, **settled(OPTIONS[name], 50))


# Below, at and above: 6 rows in registers, 16 lanes, panels of 64, tiles of 96 units, 48 rows of a gradient, a depth
# of 512 units; an odd width, whose last bfloat16 number has no neighbour.
@in_both
@pytest.mark.parametrize(
    ("tokens", "width", "vocabulary"),
    [(1, 1, 2), (15, 2, 5), (16, 64, 6), (17, 65, 7), (64, 63, 96), (65, 130, 193), (130, 1030, 100), (40, 33, 500)],
)
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("options", [{}, {"softcap": 2.0}, {"softcap": 2.0, "label_smoothing": 0.3}], ids=str)
def test_odd_shapes(monkeypatch, dtype, tokens, width, vocabulary, threads, options):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    for chunk in (None, 16, 5):
        call = problem(dtype, (tokens,), width, vocabulary, scale=width**-0.5)
        assert_close_to_exact((*call[:2], torch.arange(tokens) % vocabulary, call[3]), chunk=chunk, **options)


@pytest.mark.parametrize(
    "case",
    [
        case
        for case in load_cases(HERE / "lm_ot")
        if case.method == "linear_cross_entropy"
        and case.params["reduction"] != "none"
        and not case.params["bf16_inputs"]
    ],
    ids=lambda case: case.id,
)
@in_float32
def test_golden(case):
    # The values are float64's; float32 has 24 bits, and sums of some hundred of them.
    case = dataclasses.replace(case, rtol=2e-4, atol=1e-6)
    adapter = cross_entropy_adapter("avx512", cast=torch.float32, rows_impl="recompute")
    result = run_case(case, {"linear_cross_entropy": adapter})
    assert result.outcome == "passed", result.line()


@in_both
@pytest.mark.parametrize("softcap", [None, 90.0])
def test_scores_out_of_range_are_shifted(dtype, softcap):
    found = assert_close_to_exact(problem(dtype, (70,), 8, 300, scale=40.0), softcap=softcap)
    assert all(value.isfinite().all() for value in found)
    huge = evaluate(problem(dtype, scale=1e4), impl="avx512")
    assert all(value.isfinite().all() for value in huge)


@in_float32
def test_a_softcap_bends_scores_of_any_size_to_float32_s_rounding():
    scores = torch.cat([torch.logspace(-30, 3, 200), -torch.logspace(-30, 3, 200)])[:, None]
    head = Head(torch.ones(1, 1), None, Terms(1, softcap=30.0))
    walk = TokenWalk(head, Alone(), None, (False, False, False), 400, Avx512Scores)
    bent = Avx512Scores(walk, scores, torch.zeros(400, dtype=torch.int64), shifted=False, want_hidden=False)
    exact = 30 * torch.tanh(scores[:, 0].double() / 30)
    torch.testing.assert_close(bent.picked.double(), exact, rtol=5e-7, atol=0)
    torch.testing.assert_close(bent.picked_slope.double(), 1 - (exact / 30) ** 2, rtol=0, atol=5e-7)


@in_both
def test_classes_masked_by_minus_infinity(dtype):
    hidden, weight, _, bias = problem(dtype)
    with torch.no_grad():
        bias[:20] = -torch.inf
    found = evaluate((hidden, weight, torch.full(hidden.shape[:-1], 21), bias), impl="avx512")
    assert all(value.isfinite().all() for value in found)
    assert (found[2][:20] == 0).all() and (found[3][:20] == 0).all()


@in_both
@pytest.mark.parametrize("name", [name for name in SMOOTHED if name != "rows"])
def test_smoothing_is_over_the_classes_that_are_left(dtype, name):
    found = assert_close_to_exact(masked_problem(dtype), **SMOOTHED[name])
    assert all(bool(value.isfinite().all()) for value in found)


@in_both
def test_a_confident_row_keeps_its_small_gradient(dtype):
    # p = 1 - 3e-4: the gradient is a difference that bfloat16, with 8 bits, could not hold.
    weight, target = torch.tensor([[8.0], [0.0]]), torch.tensor([0])
    call = (torch.ones(1, 1, dtype=dtype).requires_grad_(), weight.to(dtype).requires_grad_(), target, None)
    exact = evaluate(as_float64(call), impl="reference")
    for one, other in zip(evaluate(call, impl="avx512"), exact, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-2, atol=0)


@in_both
def test_only_what_requires_a_gradient_gets_one(dtype):
    hidden, weight, target, bias = problem(dtype, (20,))
    whole = evaluate((hidden, weight, target, bias), impl="avx512")
    for number, wanted in enumerate((hidden, weight, bias)):
        call = [
            t.detach().requires_grad_(t is wanted) if t.is_floating_point() else t
            for t in (hidden, weight, target, bias)
        ]
        linear_cross_entropy(*call, impl="avx512").backward()
        grads = [call[0].grad, call[1].grad, call[3].grad]
        assert [g is not None for g in grads] == [number == n for n in range(3)]
        # The bias's gradient rounds where no weight's is made.
        torch.testing.assert_close(grads[number], whole[number + 1], rtol=2e-2, atol=1e-3)


@in_both
def test_ignored_tokens_may_hold_anything_and_none_left_is_zero(dtype):
    hidden, weight, target, bias = problem(dtype)
    with torch.no_grad():
        hidden[target == -100] = torch.nan
    found = evaluate((hidden, weight, target, bias), impl="avx512")
    assert all(value.isfinite().all() for value in found) and (found[1][target == -100] == 0).all()
    none = evaluate((hidden, weight, torch.full_like(target, -100), bias), impl="avx512", label_smoothing=0.1)
    assert all((value == 0).all() for value in none)


@in_float32
def test_hidden_states_targets_and_bias_need_not_be_contiguous():
    hidden, weight, target, bias = problem(torch.float32, (12, 3), 6, 9)
    straight = evaluate((hidden, weight, target, bias), impl="avx512")

    def spread(tensor):
        wide = torch.zeros(*tensor.shape, 2, dtype=tensor.dtype)
        wide[..., 0] = tensor.detach()
        return wide[..., 0]

    call = [spread(t) for t in (hidden.flatten(0, 1), target.flatten(), bias)]
    assert not any(t.is_contiguous() for t in call)
    turned = (call[0].requires_grad_(), weight, call[1], call[2].requires_grad_())
    found = evaluate(turned, impl="avx512")
    assert_same([found[0], found[1].reshape(hidden.shape), *found[2:]], straight, 1e-6, 1e-7)


@in_both
def test_scores_in_the_gradient_s_memory_become_the_gradient(dtype):
    # A width of 24: as many rows lie in the gradient, 48 of them in a float32 gradient of a bfloat16 head.
    for options in ({}, {"accum_dtype": torch.float32}, {"chunk": 10}):
        assert_close_to_exact(problem(dtype, (90,), 24, 33), **options)


@pytest.mark.skipif(lacking(torch.bfloat16) is not None, reason=f"impl='avx512': {lacking(torch.bfloat16)}")
def test_accumulation_in_float32_is_closer():
    call = problem(torch.bfloat16, (256,), 16, bias=False)
    exact = evaluate(as_float64(call), impl="reference")[2]
    own, single = (
        evaluate(call, impl="avx512", chunk=4, accum_dtype=kind)[2].double() for kind in (None, torch.float32)
    )
    # Rounding sixty times adds up, rounding once does not.
    assert (single - exact).norm() < 0.5 * (own - exact).norm()


@in_float32
def test_sums_over_a_large_vocabulary_keep_their_digits():
    call = problem(torch.float32, (32,), 16, 100_000, scale=0.3, bias=False)
    call = (*call[:2], call[2].clamp(min=0), None)
    found, exact = evaluate(call, impl="avx512"), evaluate(as_float64(call), impl="reference")
    # Added one by one they would be 1e-6 off.
    assert all((one.double() - other).norm() <= 2e-7 * other.norm() for one, other in zip(found, exact, strict=True))


@in_float32
def test_a_retained_graph_gives_the_same_gradient_again_and_higher_ones_are_refused():
    call = problem(torch.float32)
    loss = linear_cross_entropy(*call, impl="avx512")
    loss.backward(retain_graph=True)
    once = call[0].grad.clone()
    (2 * loss).backward()
    torch.testing.assert_close(call[0].grad, 3 * once)
    with pytest.raises(RuntimeError, match="create_graph.*impl='reference'"):
        torch.autograd.grad(linear_cross_entropy(*call, impl="avx512"), call[0], create_graph=True)


@in_float32
def test_threads_only_move_roundings_and_a_rerun_moves_nothing(monkeypatch):
    call = problem(torch.float32, (100,), 40, 900)
    results = []
    for threads in (1, 1, 2, 2):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        results.append(evaluate(call, impl="avx512", chunk=32))
    assert_same(results[0], results[1], 0, 0)
    assert_same(results[2], results[3], 0, 0)
    assert_same(results[0], results[2], 1e-4, 1e-6)


@in_float32
@pytest.mark.parametrize("scale", [1.0, 60.0], ids=["as-they-are", "shifted"])
def test_a_part_of_the_vocabulary_is_scored_alone(scale):
    # What another process would score: targets outside this part count for the other's.
    hidden, weight, target, _ = problem(torch.float32, (20,), 6, 40, scale=scale, bias=False)
    target = target.clamp(min=0)
    logits = (hidden @ weight.t()).detach()
    elsewhere = target >= 25
    picked = logits.gather(1, target[:, None])[:, 0]
    others = logits[:, 25:].clone()
    others[elsewhere, target[elsewhere] - 25] = -torch.inf

    class Other:
        """The rest of the vocabulary, scored by hand, in the order in which a chunk asks for it."""

        def __init__(self):
            self.shift = torch.zeros(20, 1)
            again = ["picked", "sums"] if scale > 1 else []
            self.asked = iter(["picked", "sums", *again, "hidden"])

        def maximum(self, values):
            largest = torch.maximum(values, others.amax(1))
            self.shift = torch.maximum(largest, picked)[:, None]
            return largest

        def total(self, values):
            name = next(self.asked)
            if name == "picked":
                # What the other processes are told must be there by now.
                torch.testing.assert_close(values, torch.where(elsewhere, 0.0, picked), rtol=1e-5, atol=1e-4)
            rest = {"picked": torch.where(elsewhere, picked, 0.0), "sums": (others - self.shift).exp().sum(1)}
            return values + rest.get(name, torch.zeros(()))

    other = Other()
    with torch.no_grad():
        made = sums_and_gradients(
            Operands(hidden, weight[:25].contiguous(), None, target),
            problem=Problem(hidden, weight, target, Terms(40)),
            wanted=(True, True, False),
            exchange=other,
            scores=Avx512Scores,
        )
    assert next(other.asked, None) is None
    value = torch.nn.functional.cross_entropy(hidden @ weight.t(), target, reduction="sum")
    grad = torch.autograd.grad(value, weight)[0]
    torch.testing.assert_close(made.loss, value.detach(), rtol=1e-5, atol=0)
    # Float32's rounding of sums that are as large as the hidden states.
    torch.testing.assert_close(made.grad_weight, grad[:25], rtol=1e-4, atol=1e-5 * scale)


def test_chunks_are_whole_panels_and_a_share_of_the_tokens():
    head = torch.zeros(32768, 512)
    assert [default_chunk(tokens, head) for tokens in (1, 1024, 4096, 8192, 10**6)] == [128, 128, 192, 384, 512]
    assert default_chunk(4096, torch.zeros(32768, 2048)) == 128
    # What fits in 6.5 MiB is taken whatever the share.
    assert default_chunk(1024, torch.zeros(8192, 8)) == 192
    assert default_chunk(1024, torch.zeros(0, 8)) == 512


@pytest.fixture
def able(monkeypatch):
    """As on an AMD CPU with AVX-512, whatever this one is."""
    flags = frozenset((*library.NEEDED, "avx512_bf16"))
    monkeypatch.setattr(library, "cpu_flags", lambda: flags)
    monkeypatch.setattr(library, "cpu_vendor", lambda: "AuthenticAMD")
    monkeypatch.setattr(library, "load", lambda source: library.Library(None))


def test_auto_takes_it_where_it_was_measured_and_says_so(able, monkeypatch):
    hidden = torch.zeros(64, 8)
    chosen = choose_implementation(hidden, LARGE)
    assert chosen.impl == "avx512" and "compiled for this CPU" in chosen.reason
    assert choose_implementation(hidden.bfloat16(), LARGE.bfloat16()).impl == "avx512"
    for call, options, reason in (
        ((hidden.double(), LARGE.double()), {}, "float32 or bfloat16"),
        ((hidden, LARGE.t().contiguous().t()), {}, "contiguous weight"),
        ((hidden, LARGE), {"accum_dtype": torch.float64}, "not in torch.float64"),
    ):
        refused = choose_implementation(*call, **options)
        assert refused.impl == "chunked" and "not 'avx512'" in refused.reason and reason in refused.reason
    flags = library.cpu_flags()
    monkeypatch.setattr(library, "cpu_flags", lambda: flags | {"amx_bf16"})
    assert "AMX" in choose_implementation(hidden.bfloat16(), LARGE.bfloat16()).reason
    monkeypatch.setattr(library, "cpu_vendor", lambda: "GenuineIntel")
    assert "measured on AMD's CPUs alone" in choose_implementation(hidden, LARGE).reason
    monkeypatch.setattr(library, "cpu_flags", lambda: frozenset({"avx512f"}))
    assert "lacks avx512bw, avx512vl" in choose_implementation(hidden, LARGE).reason


def test_what_it_cannot_do_is_refused(able):
    call = problem(torch.float32)
    with pytest.raises(ValueError, match="impl='avx512' can't take this: .* not torch.float64.*; use 'chunked'"):
        linear_cross_entropy(*problem(), impl="avx512")
    with pytest.raises(ValueError, match="no per-row losses or logsumexps; use 'recompute'"):
        linear_cross_entropy(*call, impl="avx512", reduction="none")
    with pytest.raises(ValueError, match="takes chunks of tokens only"):
        linear_cross_entropy(*call, impl="avx512", chunk=(2, 3))


def test_a_compiler_that_is_missing_or_fails_is_told(able, monkeypatch, tmp_path):
    monkeypatch.setattr(library, "load", COMPILING)
    monkeypatch.setenv("LIGHTNING_LOSSES_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "no C++ compiler was found" in choose_implementation(torch.zeros(64, 8), LARGE).reason
    broken = tmp_path / "compiler"
    broken.write_text('#!/bin/sh\n[ "$1" = --version ] && exit 0\necho "error: unknown option" >&2\nexit 1\n')
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    with pytest.warns(UserWarning, match=r"cross_entropy/avx512.cpp is not available.*unknown option"):
        chosen = choose_implementation(torch.zeros(64, 8), LARGE)
    assert chosen.impl == "chunked" and "unknown option" in chosen.reason
    assert not list((tmp_path / "cache").rglob("*.so"))


@pytest.fixture
def small(monkeypatch, tmp_path):
    """A source that is compiled in no time, and what compiles it."""
    monkeypatch.setenv("LIGHTNING_LOSSES_CACHE", str(tmp_path / "cache"))
    source = tmp_path / "small" / "one.cpp"
    source.parent.mkdir()
    source.write_text('extern "C" int one() { return 1; }')
    builds = []
    run = subprocess.run

    def noted(command, **options):
        builds.extend(["-o"] if "-o" in command else [])
        return run(command, **options)

    monkeypatch.setattr(subprocess, "run", noted)
    return source, builds


@in_float32
def test_a_library_is_built_once_and_anew_if_anything_has_changed(small, tmp_path):
    source, builds = small
    for _ in range(2):
        assert COMPILING(source).functions.one() == 1
    assert len(builds) == 1
    (folder,) = (tmp_path / "cache").iterdir()
    assert folder.stat().st_mode & 0o077 == 0
    (built,), (record,) = folder.glob("*.so"), folder.glob("*.json")
    whole, made_of = built.read_bytes(), json.loads(record.read_text())["made_of"]
    for damage in (
        lambda: built.write_bytes(whole + b"x"),
        lambda: (built.rename(tmp_path / "elsewhere.so"), built.symlink_to(tmp_path / "elsewhere.so")),
        lambda: record.write_text(record.read_text().replace(made_of, made_of[::-1])),
        lambda: record.write_text("{"),
    ):
        # A file that was loaded is written to, in place: not this process's.
        built.unlink()
        built.write_bytes(whole)
        damage()
        builds.clear()
        assert library._built(source, [shutil.which("g++"), *library.FLAGS]) == built
        assert len(builds) == 1 and built.read_bytes() == whole and not built.is_symlink()
        assert json.loads(record.read_text())["made_of"] == made_of


@in_float32
@pytest.mark.parametrize("damage", [lambda folder, _: folder.chmod(0o770), lambda *two: two[0].symlink_to(two[1])])
def test_no_library_is_loaded_from_where_others_may_write(small, tmp_path, damage):
    source, builds = small
    folder = tmp_path / "cache" / f"kernels-{os.getuid()}"
    folder.mkdir(parents=True)
    if damage.__code__.co_argcount == 0:
        folder.rmdir()
    damage(folder, tmp_path)
    with pytest.warns(UserWarning, match=r"it is a link, or others than this user may write there; remove it"):
        assert COMPILING(source).functions is None
    assert not builds


def test_a_cpu_is_known_by_its_listing(monkeypatch, tmp_path):
    listing = tmp_path / "cpuinfo"
    listing.write_text("processor : 0\nvendor_id : AuthenticAMD\nflags : fpu avx512f\nprocessor : 1\nflags : fpu\n")
    monkeypatch.setattr(products, "Path", lambda _: listing)
    assert products.cpu_flags.__wrapped__() == {"fpu", "avx512f"}
    assert products.cpu_vendor.__wrapped__() == "AuthenticAMD"
    listing.unlink()
    assert products.cpu_flags.__wrapped__() == frozenset()
