import weakref

import pytest
import torch
import torch.nn.functional as F

from lightning_losses import debug
from lightning_losses.kernels import head
from lightning_losses.kernels.choice import choose_implementation
from lightning_losses.kernels.cross_entropy.chunked import TiledScores
from lightning_losses.kernels.cross_entropy.recompute import default_tile
from lightning_losses.kernels.cross_entropy.walk import TokenWalk, default_chunk
from lightning_losses.kernels.linear_cross_entropy import LinearCrossEntropyValue, linear_cross_entropy
from lightning_losses.kernels.terms import Alone, Terms
from lightning_losses.losses import CrossEntropy
from lightning_losses.numerics import products
from tests.golden.adapters.lm_ot import cross_entropy_adapter
from tests.golden.harness import HERE, load_cases, run_case

pytestmark = pytest.mark.kernels
of_torch = pytest.mark.skipif(not hasattr(torch.nn, "LinearCrossEntropyOptions"), reason="this torch has no fused head")

TILE_WIDTH = head.tile_width
OWN = {"reference": {}, "chunked": {"chunk": 5}, "recompute": {"chunk": (4, 6)}}


def focal(cross_entropy):
    return (-torch.expm1(-cross_entropy)) ** 2 * cross_entropy


OPTIONS = {
    "plain": {},
    "softcap": {"softcap": 3.0},
    "label_smoothing": {"label_smoothing": 0.1},
    "z_loss": {"z_loss": 0.02},
    "class_weight": {"class_weight": True},
    "sum": {"reduction": "sum"},
    "shift": {"shift": 1},
    "normalizer": {"normalizer": 40},
    "temperature": {"temperature": 0.7, "label_smoothing": 0.1},
    "row_function": {"row_function": focal, "class_weight": True},
    "weightless": {"drop_ignored": False, "z_loss": 0.02, "class_weight": True},
    "all": {
        **{"softcap": 3.0, "label_smoothing": 0.2, "z_loss": 0.02, "class_weight": True, "shift": True},
        **{"temperature": 1.5, "drop_ignored": False},
    },
}


@pytest.fixture(autouse=True)
def narrow_tiles(monkeypatch):
    """The vocabularies of these tests span several tiles."""
    monkeypatch.setattr(head, "tile_width", lambda *settings: 7)


def problem(dtype=torch.float64, tokens=(3, 6), width=5, vocabulary=23, scale=1.0, bias=True):
    generator = torch.Generator().manual_seed(1)
    hidden = scale * torch.randn(*tokens, width, generator=generator, dtype=torch.float64)
    weight = torch.randn(vocabulary, width, generator=generator, dtype=torch.float64)
    target = torch.randint(vocabulary, tokens, generator=generator)
    target[..., ::4] = -100
    vector = torch.randn(vocabulary, generator=generator, dtype=torch.float64) if bias else None
    leaves = [None if t is None else t.to(dtype).requires_grad_() for t in (hidden, weight, vector)]
    return leaves[0], leaves[1], target, leaves[2]


def settled(options, vocabulary=23):
    if options.get("class_weight"):
        return {**options, "class_weight": torch.linspace(0.5, 2.0, vocabulary, dtype=torch.float64)}
    return options


def evaluate(call, upstream=1.0, **options):
    """The loss and the gradients of its inputs."""
    leaves = [leaf for leaf in (call[0], call[1], call[3]) if leaf is not None]
    loss = linear_cross_entropy(*call, **options)
    return [loss.detach(), *torch.autograd.grad((upstream * loss).sum(), leaves)]


def assert_same(found, wanted, rtol, atol):
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=rtol, atol=atol)


def by_hand(hidden, weight, target, bias):
    logits = hidden @ weight.t() + bias
    return F.cross_entropy(logits.flatten(0, -2), target.flatten())


@pytest.mark.parametrize("impl", OWN)
def test_equals_torch_cross_entropy_on_the_logits(impl):
    call = problem()
    value = by_hand(*call)
    wanted = [value.detach(), *torch.autograd.grad(value, [call[0], call[1], call[3]])]
    assert_same(evaluate(call, impl=impl, **OWN[impl]), wanted, 1e-12, 1e-14)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("impl", ["chunked", "recompute"])
def test_every_option_equals_the_reference(impl, name, bias):
    # float64: a hundred roundings of 1e-16 apart, at most.
    call, options = problem(bias=bias), settled(OPTIONS[name])
    wanted = evaluate(call, upstream=-2.5, impl="reference", **options)
    assert_same(evaluate(call, upstream=-2.5, impl=impl, **OWN[impl], **options), wanted, 1e-11, 1e-13)


@pytest.mark.parametrize(
    "case",
    [case for case in load_cases(HERE / "lm_ot") if case.method == "linear_cross_entropy"],
    ids=lambda case: case.id,
)
@pytest.mark.parametrize("impl", [*OWN, "auto"])
def test_golden_through_every_implementation(impl, case):
    options = {"impl": impl, **({"chunk": OWN[impl]["chunk"]} if OWN.get(impl) else {})}
    result = run_case(case, {"linear_cross_entropy": cross_entropy_adapter(**options)})
    assert result.outcome == "passed", result.line()


@pytest.mark.parametrize("name", ["plain", "all"])
@pytest.mark.parametrize("impl", ["chunked", "recompute"])
def test_gradcheck(impl, name):
    hidden, weight, target, bias = problem(tokens=(2, 4), vocabulary=9)
    options = settled(OPTIONS[name], 9)
    assert torch.autograd.gradcheck(
        lambda h, w, b: linear_cross_entropy(h, w, target, b, impl=impl, **OWN[impl], **options), (hidden, weight, bias)
    )


def test_gradcheck_of_rows_and_logsumexps():
    hidden, weight, target, bias = problem(tokens=(2, 4), vocabulary=9)

    def rows(h, w, b):
        value = linear_cross_entropy(h, w, target, b, reduction="none", return_lse=True, impl="chunked", z_loss=0.1)
        return value.loss, value.lse

    assert torch.autograd.gradcheck(rows, (hidden, weight, bias))


@pytest.mark.parametrize("impl", ["reference", "recompute"])
@pytest.mark.parametrize("options", [{}, {"temperature": 0.7, "softcap": 3.0}, {"drop_ignored": False}], ids=str)
def test_entropies_and_log_probabilities_are_those_of_the_distribution(impl, options):
    hidden, weight, target, bias = problem()

    def whole(h, w, b):
        logits = h @ w.t() + b
        if "softcap" in options:
            logits = options["softcap"] * (logits / options["softcap"]).tanh()
        log_p = (logits / options.get("temperature", 1.0)).log_softmax(dim=-1)
        kept = target != -100
        picked = log_p.gather(-1, target.masked_fill(~kept, 0).unsqueeze(-1)).squeeze(-1)
        return picked * kept, -(log_p.exp() * log_p).sum(dim=-1) * kept

    def ours(h, w, b):
        value = linear_cross_entropy(
            h, w, target, b, impl=impl, return_log_probability=True, return_entropy=True, **OWN[impl], **options
        )
        return value.log_probability, value.entropy

    upstream = torch.linspace(-1, 2, target.numel(), dtype=torch.float64).reshape(target.shape)
    found = []
    for function in (ours, whole):
        values = function(hidden, weight, bias)
        total = (upstream * values[0] - (upstream + 0.3) * values[1]).sum()
        found.append([*values, *torch.autograd.grad(total, (hidden, weight, bias))])
    assert_same(*found, 1e-11, 1e-12)


@pytest.mark.parametrize("impl", ["reference", "recompute"])
def test_a_class_without_probability_has_no_part_in_the_entropy(impl):
    hidden, weight, target, bias = problem()
    with torch.no_grad():
        bias[:20] = -torch.inf
    value = linear_cross_entropy(hidden, weight, target, bias, impl=impl, return_entropy=True)
    gradients = torch.autograd.grad(value.entropy.sum(), (hidden, weight))
    assert (value.entropy <= torch.tensor(3.0).log()).all() and (value.entropy[target != -100] > 0).all()
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("impl", OWN)
def test_a_row_function_of_rows_is_that_of_their_cross_entropies(impl):
    call = problem()
    rows = linear_cross_entropy(*call, reduction="none", impl="reference")
    found = linear_cross_entropy(*call, reduction="none", impl=impl, row_function=focal)
    torch.testing.assert_close(found, focal(rows), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("impl", OWN)
def test_small_gradients_survive_where_a_scaler_enlarges_them(impl, dtype):
    generator = torch.Generator().manual_seed(3)
    hidden, weight = (torch.randn(*shape, generator=generator).to(dtype) * 0.1 for shape in ((256, 32), (512, 32)))
    target = torch.randint(512, (256,), generator=generator)
    scale = 1024.0
    exact = evaluate(
        (hidden.double().requires_grad_(), weight.double().requires_grad_(), target, None), scale, impl="reference"
    )
    # A mean over 256 tokens of entries that are 1/512 as a rule: float16 rounds them to 0 unless they are enlarged.
    found = evaluate((hidden.requires_grad_(), weight.requires_grad_(), target, None), scale, impl=impl)
    # A few roundings of float16's 11 bits, and of bfloat16's 8.
    limit = 1e-3 if dtype == torch.float16 else 1e-2
    for one, other in zip(found[1:], exact[1:], strict=True):
        assert (one.double() - other).norm() <= limit * other.norm()


@pytest.mark.parametrize("impl", ["chunked", "recompute"])
def test_the_result_does_not_depend_on_the_chunk(impl):
    call = problem(tokens=(20,))
    chunks = [1, 3, 20, 1000] if impl == "chunked" else [(1, 1), (3, 5), (20, 23), (64, 64)]
    results = [evaluate(call, impl=impl, chunk=chunk, label_smoothing=0.1, z_loss=0.1) for chunk in chunks]
    for result in results[1:]:
        assert_same(result, results[0], 1e-12, 1e-14)


@pytest.mark.parametrize(
    ("device", "tokens", "vocabulary", "filtered", "tile"),
    [
        ("cpu", 8192, 128256, False, (512, TILE_WIDTH(torch.float32))),
        ("meta", 8192, 128256, True, (512, TILE_WIDTH(torch.float32))),
        ("meta", 8192, 128256, False, (2048, 32064)),
        ("meta", 2049, 50257, False, (1025, 25129)),
        ("meta", 7, 5, False, (7, 5)),
        ("meta", 0, 5, False, (1, 5)),
    ],
)
def test_tiles_off_a_cpu_are_few_and_even_but_for_filtering(device, tokens, vocabulary, filtered, tile):
    assert default_tile(tokens, torch.empty(vocabulary, 4, device=device), filtered) == tile


@pytest.mark.parametrize("impl", OWN)
def test_per_token_gradients_follow_the_upstream_of_each_token(impl):
    call = problem(bias=False)
    upstream = torch.linspace(-1, 2, call[2].numel(), dtype=torch.float64).reshape(call[2].shape)
    found = evaluate(call, upstream=upstream, reduction="none", impl=impl)
    value = F.cross_entropy((call[0] @ call[1].t()).flatten(0, 1), call[2].flatten(), reduction="none")
    wanted = torch.autograd.grad((upstream.flatten() * value).sum(), [call[0], call[1]])
    assert_same(found, [value.detach().reshape(call[2].shape), *wanted], 1e-11, 1e-13)


@pytest.mark.parametrize("impl", OWN)
def test_ignored_tokens_have_no_gradient_and_may_hold_anything(impl):
    hidden, weight, target, bias = problem()
    with torch.no_grad():
        hidden[target == -100] = torch.inf
    loss, grad_hidden, grad_weight, _ = evaluate((hidden, weight, target, bias), impl=impl)
    assert loss.isfinite() and grad_weight.isfinite().all()
    assert (grad_hidden[target == -100] == 0).all()
    assert (grad_hidden[target != -100] != 0).any()


@pytest.mark.parametrize("impl", OWN)
@pytest.mark.parametrize("tokens", [0, 3])
def test_no_token_left_is_zero_with_zero_gradients(impl, tokens):
    hidden, weight, target, bias = problem(tokens=(tokens,))
    found = evaluate((hidden, weight, torch.full_like(target, -100), bias), impl=impl, z_loss=0.1, label_smoothing=0.1)
    assert all((value == 0).all() for value in found)


@pytest.mark.parametrize("impl", OWN)
@pytest.mark.parametrize(("tokens", "vocabulary"), [((1,), 23), ((4,), 2), ((1, 1), 2)])
def test_smallest_shapes(impl, tokens, vocabulary):
    hidden, weight, _, bias = problem(tokens=tokens, vocabulary=vocabulary)
    call = (hidden, weight, torch.ones(tokens, dtype=torch.int64), bias)
    value = by_hand(*call)
    assert_same(
        evaluate(call, impl=impl), [value.detach(), *torch.autograd.grad(value, [hidden, weight, bias])], 1e-12, 1e-14
    )


@pytest.mark.parametrize("impl", ["chunked", "recompute"])
def test_tensors_need_not_be_contiguous(impl):
    hidden, weight, target, _ = problem(bias=False)
    turned = (
        hidden.detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_(),
        weight.detach().t().contiguous().t().requires_grad_(),
        target.t().contiguous().t(),
        None,
    )
    assert not turned[0].is_contiguous() and not turned[1].is_contiguous()
    assert_same(evaluate(turned, impl=impl), evaluate((hidden, weight, target, None), impl=impl), 1e-12, 1e-14)


@pytest.mark.parametrize("impl", OWN)
def test_huge_scores_stay_finite(impl):
    call = problem(torch.float32, scale=1e4)
    found = evaluate(call, impl=impl)
    assert all(value.isfinite().all() for value in found)
    exact = evaluate(problem(scale=1e4), impl="reference")
    # Scores of 1e4 carry float32 errors of 1e-3, which is what probabilities near ties move by.
    torch.testing.assert_close(found[0].double(), exact[0], rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize("impl", OWN)
def test_classes_masked_by_minus_infinity(impl):
    hidden, weight, _, bias = problem(torch.float32)
    with torch.no_grad():
        bias[:20] = -torch.inf
    call = (hidden, weight, torch.full(hidden.shape[:-1], 21), bias)
    found = evaluate(call, impl=impl)
    assert all(value.isfinite().all() for value in found)
    assert (found[2][:20] == 0).all()


def masked_problem(dtype=torch.float64, scale=1.0):
    """A problem a third of whose classes are masked, none of them a target."""
    hidden, weight, target, bias = problem(dtype, scale=scale)
    with torch.no_grad():
        bias[::3] = -torch.inf
    return hidden, weight, torch.where((target >= 0) & (target % 3 == 0), target + 1, target), bias


SMOOTHED = {
    "smoothed": {"label_smoothing": 0.2},
    "uniform": {"label_smoothing": 1.0},
    "rows": {"label_smoothing": 0.2, "reduction": "none"},
    "weightless": {"label_smoothing": 0.2, "drop_ignored": False},
    "weighted": {"label_smoothing": 0.2, "class_weight": torch.linspace(0.5, 2.0, 23), "temperature": 0.7},
}


@pytest.mark.parametrize("name", SMOOTHED)
@pytest.mark.parametrize("impl", OWN)
def test_smoothing_is_over_the_classes_that_are_left(impl, name):
    call, options = masked_problem(), SMOOTHED[name]
    logits = (call[0] @ call[1].t() + call[3]) / options.get("temperature", 1.0)
    settings = {key: options[key] for key in ("label_smoothing", "class_weight", "reduction") if key in options}
    loss = CrossEntropy(**settings)(logits, call[2])
    wanted = [loss.detach(), *torch.autograd.grad(loss.sum(), [call[0], call[1], call[3]])]
    assert_same(evaluate(call, impl=impl, **OWN[impl], **options), wanted, 1e-12, 1e-14)


@pytest.mark.parametrize("impl", OWN)
@pytest.mark.parametrize(
    "options",
    [{}, {"row_function": focal}, {"z_loss": 0.1, "reduction": "none"}],
    ids=["plain", "a row function", "rows"],
)
def test_ignored_tokens_weigh_nothing_where_class_0_is_masked(impl, options):
    found, wanted = (evaluate(masked_problem(), impl=impl, drop_ignored=drop, **options) for drop in (False, True))
    assert_same(found, wanted, 1e-12, 1e-14)


@pytest.mark.parametrize("impl", OWN)
@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_a_target_that_is_masked_has_an_infinite_loss(impl, label_smoothing):
    hidden, weight, target, bias = masked_problem()
    loss = linear_cross_entropy(hidden, weight, target.clamp(max=0), bias, impl=impl, label_smoothing=label_smoothing)
    assert loss.item() == torch.inf


@pytest.mark.parametrize("impl", ["chunked", "recompute"])
def test_a_confident_row_keeps_its_small_gradient_in_bfloat16(impl):
    # p = 1 - 3e-4: the gradient is a difference that bfloat16, with 8 bits, could not hold.
    weight = torch.tensor([[8.0], [0.0]])
    exact = evaluate((torch.ones(1, 1).requires_grad_(), weight.requires_grad_(), torch.tensor([0]), None))
    half = evaluate(
        (
            torch.ones(1, 1, dtype=torch.bfloat16).requires_grad_(),
            weight.detach().bfloat16().requires_grad_(),
            torch.tensor([0]),
            None,
        ),
        impl=impl,
    )
    torch.testing.assert_close(half[1].float(), exact[1], rtol=1e-2, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("impl", OWN)
def test_half_precision_is_close_and_its_loss_is_float32(impl, dtype):
    call = problem(dtype, tokens=(64,), width=16)
    found = evaluate(call, impl=impl)
    exact = evaluate(
        tuple(
            None if t is None else t.detach().double().requires_grad_() if t.is_floating_point() else t for t in call
        ),
        impl="reference",
    )
    assert found[0].dtype == torch.float32 and found[1].dtype == dtype
    for one, other in zip(found, exact, strict=True):
        # 8 bits of bfloat16: 0.4 % a rounding, and a few of them.
        assert (one.double() - other).norm() <= 0.02 * other.norm()


def test_accumulation_in_float32_is_at_least_as_close():
    call = problem(torch.bfloat16, tokens=(256,), width=16, bias=False)
    exact = evaluate(
        tuple(t.detach().double().requires_grad_() if t is not None and t.is_floating_point() else t for t in call),
        impl="reference",
    )[2]
    own, single = (
        evaluate(call, impl="chunked", chunk=4, accum_dtype=dtype)[2].double() for dtype in (None, torch.float32)
    )
    # 64 chunks: rounding 64 times adds up, rounding once does not.
    assert (single - exact).norm() < 0.5 * (own - exact).norm()


@pytest.mark.parametrize("impl", OWN)
def test_autocast_takes_its_dtype_and_returns_the_gradient_in_the_parameters(impl):
    call = problem(torch.float32, bias=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = linear_cross_entropy(*call, impl=impl)
    assert loss.dtype == torch.float32
    grad = torch.autograd.grad(loss, call[1])[0]
    exact = evaluate(call, impl="reference")
    assert grad.dtype == torch.float32
    assert 0 < (grad - exact[2]).norm() <= 0.02 * exact[2].norm()


@pytest.mark.parametrize("impl", OWN)
def test_only_what_requires_a_gradient_gets_one(impl):
    hidden, weight, target, bias = problem()
    exact = evaluate((hidden, weight, target, bias), impl="reference")
    for number, wanted in enumerate((hidden, weight, bias)):
        call = [
            t.detach().requires_grad_(t is wanted) if t is not None and t.is_floating_point() else t
            for t in (hidden, weight, target, bias)
        ]
        linear_cross_entropy(*call, impl=impl).backward()
        grads = [call[0].grad, call[1].grad, call[3].grad]
        assert [g is not None for g in grads] == [number == n for n in range(3)]
        torch.testing.assert_close(grads[number], exact[number + 1], rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("reduction", ["sum", "none"])
@pytest.mark.parametrize("impl", OWN)
def test_a_loss_that_is_kept_holds_no_hidden_states_after_its_backward_pass(impl, reduction):
    leaf, weight, target, bias = problem(tokens=(6,))
    hidden, target = 2 * leaf, target.clamp(min=0)
    held = weakref.ref(hidden)
    loss = linear_cross_entropy(hidden, weight, target, bias, impl=impl, reduction=reduction)
    del hidden
    assert held() is not None
    loss.sum().backward()
    assert held() is None and loss.isfinite().all()


def test_no_gradient_no_graph():
    call = problem()
    with torch.no_grad():
        loss = linear_cross_entropy(*call, impl="chunked")
    assert not loss.requires_grad


@pytest.mark.parametrize("impl", ["chunked", "recompute"])
def test_a_retained_graph_gives_the_same_gradient_again(impl):
    call = problem()
    loss = linear_cross_entropy(*call, impl=impl)
    loss.backward(retain_graph=True)
    once = call[0].grad.clone()
    (2 * loss).backward()
    torch.testing.assert_close(call[0].grad, 3 * once)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


@pytest.mark.parametrize("impl", ["chunked", "recompute"])
def test_higher_derivatives_are_refused(impl):
    hidden, weight, target, bias = problem()
    loss = linear_cross_entropy(hidden, weight, target, bias, impl=impl)
    with pytest.raises(RuntimeError, match="create_graph.*impl='reference'"):
        torch.autograd.grad(loss, hidden, create_graph=True)


def test_z_loss_is_a_part_that_can_be_logged():
    call = problem()
    value = linear_cross_entropy(*call, z_loss=0.1, return_z_loss=True, impl="chunked")
    plain = linear_cross_entropy(*call, impl="chunked")
    assert isinstance(value, LinearCrossEntropyValue) and value.lse is None
    assert value.z_loss > 0 and not value.z_loss.requires_grad
    torch.testing.assert_close(value.loss - value.z_loss, plain, rtol=1e-12, atol=0)


def test_a_normalizer_joins_uneven_batches_to_one():
    hidden, weight, target, bias = problem(tokens=(12,))
    whole = linear_cross_entropy(hidden, weight, target, bias, impl="chunked", z_loss=0.1)
    count = torch.tensor(float((target != -100).sum()))
    parts = [
        linear_cross_entropy(hidden[cut], weight, target[cut], bias, impl="chunked", z_loss=0.1, normalizer=count)
        for cut in (slice(0, 3), slice(3, 12))
    ]
    torch.testing.assert_close(sum(parts), whole, rtol=1e-12, atol=0)


def test_filtering_changes_a_gradient_by_less_than_its_threshold():
    call = problem(tokens=(64,), scale=4.0, bias=False)
    exact = evaluate(call, impl="recompute", reduction="sum")
    eps = 1e-2
    for sort in (False, True):
        found = evaluate(call, impl="recompute", reduction="sum", filter_eps=eps, sort_vocabulary=sort, chunk=(2, 3))
        assert (found[1] != exact[1]).any()
        bound = eps * call[1].detach().abs().sum(dim=0)
        assert ((found[1] - exact[1]).abs() <= bound).all()
    assert_same(evaluate(call, impl="recompute", reduction="sum", filter_eps=0.0), exact, 0, 0)


def test_auto_explains_itself():
    small = choose_implementation(torch.zeros(8, 4), torch.zeros(10, 4))
    assert small.impl == "reference" and "320 bytes" in small.reason
    head = torch.zeros(200_000, 4, dtype=torch.float64)
    assert choose_implementation(torch.zeros(64, 4, dtype=torch.float64), head).impl == "chunked"
    rows = choose_implementation(torch.zeros(64, 4), head, per_row=True)
    assert rows.impl == "recompute" and "backward" in rows.reason
    assert choose_implementation(torch.zeros(64, 4), head, filtered=True).impl == "recompute"
    assert choose_implementation(torch.zeros(64, 4), head, impl="torch").impl == "torch"


def test_chunks_are_a_share_of_the_tokens_within_bounds():
    wide = torch.zeros(32768, 1)
    assert [default_chunk(tokens, wide) for tokens in (1, 1024, 4096, 8192, 10**6)] == [104, 104, 163, 327, 512]
    assert [default_chunk(tokens, wide, full=True) for tokens in (1, 1024, 4096)] == [128, 128, 163]
    assert default_chunk(1024, wide.bfloat16(), full=True) == 96
    assert default_chunk(1024, torch.zeros(32768, 1024, dtype=torch.bfloat16)) == 256
    # What fits in 6.5 MiB is taken whatever the share.
    assert default_chunk(1024, torch.zeros(8192, 1)) == 208
    assert default_chunk(1024, torch.zeros(8192, 1, dtype=torch.bfloat16)) == 416
    assert default_chunk(1024, torch.zeros(0, 1)) == 512
    assert default_chunk(8192, torch.zeros(1, 1, device="meta")) == 4096


def test_tiles_are_wider_for_several_threads():
    assert [TILE_WIDTH(torch.float32, False, threads) for threads in (1, 2, 4, 64)] == [512, 2048, 4096, 16384]
    assert TILE_WIDTH(torch.float32, True) == 1024
    assert TILE_WIDTH(torch.bfloat16) == 2048


def walk(width, dtype=torch.float32, chunk=100, want_weight=True, **options):
    head_ = head.Head(torch.zeros(9, width, dtype=dtype), None, Terms(9, **options))
    return TokenWalk(head_, Alone(), None, (True, want_weight, False), chunk, TiledScores)


def lengths(walk_, tokens):
    return [rows.stop - rows.start for rows in walk_.chunks(tokens)]


def test_the_first_chunk_is_as_large_as_the_gradient_has_room_for(monkeypatch):
    monkeypatch.setattr(products, "cpu_bfloat16", lambda: True)
    assert lengths(walk(512), 1024) == [512, 96, 96, 96, 96, 96, 32]
    assert lengths(walk(512, torch.bfloat16), 1024) == [512, 96, 96, 96, 96, 96, 32]
    assert lengths(walk(512), 300) == [300]
    # Copies of the hidden states are memory too.
    assert lengths(walk(2048), 700) == [512, 96, 92]
    # Nothing to borrow: no gradient, a softcap's slopes, a narrow head.
    for other in (walk(512, want_weight=False), walk(512, softcap=1.0), walk(4)):
        assert lengths(other, 300) == [100, 100, 100]
    assert lengths(walk(4), 0) == [0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_scores_in_the_gradient_s_memory_become_the_gradient(dtype):
    # Twenty-four rows lie in the gradient, then chunks of at most ten; large scores are scored again with a shift,
    # which bfloat16 would round by whole nats.
    loud = [] if dtype == torch.bfloat16 else [(10.0, {})]
    for scale, options in [(1.0, {}), (1.0, {"accum_dtype": torch.float32}), *loud]:
        generator = torch.Generator().manual_seed(2)
        hidden, weight = ((scale * torch.randn(n, 24, generator=generator)).to(dtype) for n in (60, 33))
        target = torch.randint(33, (60,), generator=generator)
        call, exact = (
            (hidden.to(kind).requires_grad_(), weight.to(kind).requires_grad_(), target, None)
            for kind in (dtype, torch.float64)
        )
        found = [t.double() for t in evaluate(call, impl="chunked", chunk=10, **options)]
        # Of float32, and of bfloat16's rounding of logits and of probabilities.
        tolerance = 1e-5 if dtype == torch.float32 else 2e-2
        assert_same(found, evaluate(exact, impl="reference"), tolerance, scale * tolerance * 0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden": torch.zeros(3, 4)}, r"hidden of shape \[3, 4\] came with weight"),
        ({"weight": torch.zeros(6, 5, dtype=torch.int64)}, "weight has dtype torch.int64"),
        ({"weight": torch.zeros(6, 5, dtype=torch.float64)}, "one dtype, or call under autocast"),
        ({"target": torch.zeros(3)}, "give int64 token ids"),
        ({"target": torch.tensor([0, 1])}, r"of shape \[3\]"),
        ({"target": torch.tensor([0, 6, 1])}, "target 6 came with a vocabulary of 6"),
        ({"target": torch.tensor([0, -1, 1])}, "target -1"),
        ({"bias": torch.zeros(5)}, "bias"),
        ({"class_weight": torch.zeros(7)}, "class_weight"),
        ({"shift": 3}, "give 0 to 2"),
        ({"shift": -1}, "shift=-1"),
        ({"shift": 1.5}, "shift=1.5 came; give a whole number"),
        ({"class_weight": torch.tensor([1.0, -1, 1, 1, 1, 1])}, "class_weight holds -1.0; give finite numbers of at"),
        ({"class_weight": torch.full((6,), torch.nan)}, "class_weight holds nan"),
        ({"softcap": 0.0}, "softcap"),
        ({"label_smoothing": 1.5}, "label_smoothing"),
        (
            {"bias": torch.full((6,), -torch.inf), "softcap": 3.0},
            "bias of -inf came with softcap=3.0, which turns it into the ordinary score -3.0",
        ),
        ({"z_loss": -1.0}, "z_loss"),
        ({"reduction": "avg"}, "reduction"),
        ({"impl": "cuda"}, "impl='cuda' came"),
        ({"normalizer": 3, "reduction": "sum"}, "it divides a mean"),
        ({"filter_eps": -1.0}, "filter_eps"),
        ({"filter_eps": 1e-3, "impl": "chunked"}, "use 'recompute'"),
        ({"filter_eps": 1e-3, "impl": "reference"}, "use 'recompute'"),
        ({"chunk": (2, 2), "impl": "chunked"}, "takes chunks of tokens only"),
        ({"chunk": 0}, "chunk=0"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"row_function": focal, "label_smoothing": 0.1}, "came with row_function"),
        pytest.param(
            {"softcap": 3.0, "z_loss": 0.1, "impl": "torch"}, "impl='torch' has no softcap, z_loss", marks=of_torch
        ),
        ({"reduction": "none", "impl": "torch"}, "impl='torch' has no per-row"),
        ({"impl": "cce"}, "impl='cce' needs a CUDA device, and weight is on cpu; use impl='chunked', or 'cce_torch_"),
        ({"impl": "liger"}, "impl='liger' needs a CUDA device, and weight is on cpu; .* TRITON_INTERPRET=1"),
        ({"impl": "cce_torch_compile", "bias": torch.zeros(6)}, "impl='cce_torch_compile' came with a bias"),
        ({"impl": "cce_torch_compile", "label_smoothing": 0.1}, "has no label_smoothing; use impl='auto'"),
    ],
)
def test_wrong_calls_are_one_sentence(change, message):
    call = {"hidden": torch.zeros(3, 5), "weight": torch.zeros(6, 5), "target": torch.tensor([0, 1, 2]), **change}
    with debug(), pytest.raises(ValueError, match=message):
        linear_cross_entropy(**call)


@of_torch
def test_torch_is_offered_where_its_options_suffice():
    call, options = problem(), settled({"class_weight": True})
    assert_same(evaluate(call, impl="torch", **options), evaluate(call, impl="reference", **options), 1e-11, 1e-13)


@pytest.mark.parametrize("options", [{}, {"softcap": 3.0}, {"reduction": "sum"}, {"shift": 1}], ids=str)
def test_cce_s_form_for_the_compiler_equals_the_reference(options):
    call = problem(torch.float32, bias=False)
    # The compiler itself takes half a minute; its form of the loss is the same code without it.
    with torch.compiler.set_stance("force_eager"):
        found = evaluate(call, upstream=2.0, impl="cce_torch_compile", **options)
    # float32 sums in another order.
    assert_same(found, evaluate(call, upstream=2.0, impl="reference", **options), 1e-5, 1e-6)


@pytest.mark.parametrize(
    ("impl", "package"),
    [
        ("cce", "cut-cross-entropy"),
        ("cce_torch_compile", "cut-cross-entropy"),
        ("liger", "liger-kernel"),
        ("quack", "quack-kernels"),
        ("triton", "triton"),
    ],
)
def test_a_backend_that_is_not_installed_is_named(monkeypatch, impl, package):
    for module in ("peers", "triton"):
        monkeypatch.setattr(f"lightning_losses.kernels.cross_entropy.{module}.installed", lambda name: False)
    with pytest.raises(ValueError, match=f"impl='{impl}' needs the package {package}"):
        linear_cross_entropy(*problem(torch.float32), impl=impl)
