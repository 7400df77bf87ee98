import pytest
import torch

from lightning_losses import losses
from lightning_losses.kernels import head
from lightning_losses.kernels.chunked_head import chunked_head
from lightning_losses.kernels.linear_cross_entropy import linear_cross_entropy
from lightning_losses.kernels.linear_distillation import TeacherLogits, TopKLogits, linear_distillation
from lightning_losses.kernels.linear_stablemax_cross_entropy import linear_stablemax_cross_entropy
from lightning_losses.kernels.rows.by_hand import evaluator_of
from lightning_losses.numerics.reduction import reduce

pytestmark = pytest.mark.kernels

OBJECTIVES = {
    "kd": losses.KD(2.0),
    "forward_kl": losses.ForwardKL(3.0),
    "reverse_kl": losses.ReverseKL(),
    "reverse_kl_softened": losses.ReverseKL(2.0, tau_squared=True),
    "jsd": losses.GeneralizedJSD(),
    "jsd_skewed": losses.GeneralizedJSD(0.2, 2.0, tau_squared=True),
    "jsd_0": losses.GeneralizedJSD(0.0),
    "jsd_1": losses.GeneralizedJSD(1.0),
    "nkd": losses.NKD(),
    "nkd_softened": losses.NKD(temperature=2.0),
    "dkd": losses.DKD(),
    "bdkd": losses.BDKD(),
    "symmetric_kl": losses.SymmetricKL(),
    "skew_kl": losses.SkewKL(),
    "skew_rkl": losses.SkewRKL(),
    "total_variation": losses.TotalVariation(),
}
HAND_WRITTEN = {"kd", "forward_kl", "reverse_kl", "reverse_kl_softened", "jsd", "jsd_skewed", "jsd_0", "jsd_1", "nkd"}


@pytest.fixture(autouse=True)
def narrow_tiles(monkeypatch):
    """The vocabularies of these tests span several tiles."""
    monkeypatch.setattr(head, "tile_width", lambda *settings: 7)


def problem(dtype=torch.float64, tokens=(13,), vocabulary=23):
    generator = torch.Generator().manual_seed(2)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    hidden, weight = normal(*tokens, 6).requires_grad_(), normal(vocabulary, 6).requires_grad_()
    target = torch.randint(vocabulary, tokens, generator=generator)
    target[..., ::4] = -100
    return hidden, weight, normal(*tokens, 9), normal(vocabulary, 9), target


def unfused(call, objective, bias=None):
    hidden, weight, teacher_hidden, teacher_weight, target = call
    logits = hidden @ weight.t() if bias is None else hidden @ weight.t() + bias
    return objective(logits, teacher_hidden @ teacher_weight.t(), target)


def with_gradients(value, call, upstream=1.0):
    return [value.detach(), *torch.autograd.grad((upstream * value).sum(), call[:2])]


def assert_same(found, wanted, rtol=1e-10, atol=1e-13):
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=rtol, atol=atol)


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("impl", ["auto", "chunked", "autograd", "reference"])
def test_every_row_wise_objective_equals_the_pair_of_heads(impl, name):
    call, objective = problem(), OBJECTIVES[name]
    found = linear_distillation(*call, objective=objective, chunk=5, impl=impl).loss
    assert_same(with_gradients(found, call, -2.0), with_gradients(unfused(call, objective), call, -2.0))


def test_the_common_objectives_have_hand_written_gradients():
    assert {name for name, objective in OBJECTIVES.items() if evaluator_of(objective)} == HAND_WRITTEN


@pytest.mark.parametrize("name", ["kd", "reverse_kl", "jsd", "nkd", "dkd"])
def test_gradcheck(name):
    hidden, weight, *rest = problem(tokens=(5,), vocabulary=9)
    assert torch.autograd.gradcheck(
        lambda h, w: linear_distillation(h, w, *rest, objective=OBJECTIVES[name], chunk=2).loss, (hidden, weight)
    )


@pytest.mark.parametrize("name", ["kd", "jsd", "nkd", "total_variation"])
def test_the_result_does_not_depend_on_the_chunk(name):
    call = problem()
    results = [
        with_gradients(linear_distillation(*call, objective=OBJECTIVES[name], chunk=chunk).loss, call)
        for chunk in (1, 4, 10, 100)
    ]
    for result in results[1:]:
        assert_same(result, results[0])


@pytest.mark.parametrize("name", ["kd", "reverse_kl", "jsd", "nkd", "bdkd"])
def test_rows_without_reduction_get_their_own_upstream_gradient(name):
    call = problem(tokens=(3, 5))
    upstream = torch.linspace(-1, 2, 15, dtype=torch.float64).reshape(3, 5)
    single = type(OBJECTIVES[name])(reduction="none")
    found = linear_distillation(*call, objective=single, chunk=4, reduction="none").loss
    assert found.shape == (3, 5) and (found[call[4] == -100] == 0).all()
    assert_same(with_gradients(found, call, upstream), with_gradients(unfused(call, single), call, upstream))


@pytest.mark.parametrize("name", ["kd", "reverse_kl", "jsd", "nkd"])
def test_biases_and_masked_classes(name):
    # A class that student and teacher both mask, and one that the teacher alone does.
    call = problem()
    bias = torch.zeros(23, dtype=torch.float64)
    bias[3] = -torch.inf
    teacher_bias = bias.clone()
    teacher_bias[9] = -torch.inf
    target = torch.full_like(call[4], 5)
    found = linear_distillation(
        *call[:4], target, objective=OBJECTIVES[name], bias=bias, teacher_bias=teacher_bias, chunk=5
    ).loss
    logits, teacher_logits = call[0] @ call[1].t() + bias, call[2] @ call[3].t() + teacher_bias
    wanted = OBJECTIVES[name](logits, teacher_logits, target)
    assert wanted.isfinite()
    assert_same(with_gradients(found, call), with_gradients(wanted, call))


@pytest.mark.parametrize("name", ["kd", "reverse_kl", "jsd", "nkd"])
def test_huge_scores_stay_finite(name):
    call = problem(torch.float32)
    call = (call[0].detach().mul(1e3).requires_grad_(), call[1], 1e3 * call[2], *call[3:])
    found = with_gradients(linear_distillation(*call, objective=OBJECTIVES[name], chunk=5).loss, call)
    assert all(value.isfinite().all() for value in found)


def test_a_cache_of_the_largest_logits_stands_in_for_the_teacher():
    hidden, weight, teacher_hidden, teacher_weight, target = call = problem(tokens=(3, 4))
    logits = teacher_hidden @ teacher_weight.t()
    whole = TopKLogits(*logits.topk(23))
    for objective in (losses.KD(2.0), losses.NKD(), losses.GeneralizedJSD()):
        found = linear_distillation(hidden, weight, whole, target=target, objective=objective, chunk=5).loss
        assert_same(with_gradients(found, call), with_gradients(unfused(call, objective), call))
    cache = TopKLogits(*logits.topk(4))
    kept = torch.full_like(logits, -torch.inf).scatter(-1, cache.classes, cache.values)
    wanted = losses.KD(2.0)(hidden @ weight.t(), kept, target)
    found = linear_distillation(hidden, weight, cache, target=target, objective=losses.KD(2.0), chunk=5).loss
    assert_same(with_gradients(found, call), with_gradients(wanted, call))


@pytest.mark.parametrize("options", [{"chunk": 5}, {"chunk": 5, "drop_ignored": False}, {"impl": "reference"}], ids=str)
def test_a_cache_gives_every_other_class_the_logit_of_the_rest(options):
    hidden, weight, teacher_hidden, teacher_weight, target = call = problem(tokens=(3, 4))
    logits = teacher_hidden @ teacher_weight.t()
    cache = TopKLogits.of(logits, 4, 2.0)
    restored = cache.rest.unsqueeze(-1).expand(-1, -1, 23).scatter(-1, cache.classes, cache.values)
    torch.testing.assert_close((restored / 2).logsumexp(-1), (logits / 2).logsumexp(-1))
    # What stands in rows that don't count must reach nothing.
    cache.rest[target < 0] = torch.nan
    for objective in (losses.KD(2.0), losses.ReverseKL(2.0), losses.DKD(), losses.NKD()):
        wanted = with_gradients(objective(hidden @ weight.t(), restored, target), call)
        found = linear_distillation(hidden, weight, cache, target=target, objective=objective, **options).loss
        assert_same(with_gradients(found, call), wanted)


@pytest.mark.parametrize("impl", ["chunked", "autograd", "reference"])
@pytest.mark.parametrize("name", ["kd", "jsd", "nkd", "dkd"])
def test_a_mean_over_many_tokens_survives_float16_where_a_scaler_enlarges_it(name, impl):
    call = [tensor.half() for tensor in problem(torch.float32)[:4]]
    gradients = []
    for dtype, upstream in ((torch.float16, 2.0**20), (torch.float64, 1.0)):
        hidden, weight = leaves = [tensor.detach().to(dtype).requires_grad_() for tensor in call[:2]]
        teacher = [tensor.to(dtype) for tensor in call[2:]]
        loss = linear_distillation(
            hidden, weight, *teacher, problem()[4], objective=OBJECTIVES[name], normalizer=2.0**20, impl=impl
        ).loss
        found = torch.autograd.grad(upstream * loss, leaves)
        gradients.append([slope.double() / upstream for slope in found])
    for half, exact in zip(*gradients, strict=True):
        # float16's 11 bits.
        assert (half - exact).norm() <= 5e-4 * exact.norm()


def test_hard_labels_are_mixed_in():
    call = problem()
    value = linear_distillation(*call, objective=losses.KD(2.0), hard_weight=0.3, soft_weight=0.7, chunk=5)
    hard = linear_cross_entropy(call[0], call[1], call[4], impl="reference")
    wanted = 0.7 * unfused(call, losses.KD(2.0)) + 0.3 * hard
    assert_same(with_gradients(value.loss, call), with_gradients(wanted, call))
    torch.testing.assert_close(value.hard, hard.detach())
    torch.testing.assert_close(value.soft, unfused(call, losses.KD(2.0)).detach())


@pytest.mark.parametrize("name", ["kd", "jsd", "nkd", "dkd"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("soft_weight", [0.7, 0.0])
def test_hard_labels_come_from_the_same_scores(monkeypatch, name, reduction, soft_weight):
    call = problem()
    single = type(OBJECTIVES[name])(reduction=reduction)
    scored = []
    scores = head.Head.scores
    monkeypatch.setattr(head.Head, "scores", lambda *given, **more: scored.append(1) or scores(*given, **more))
    options = {"hard_weight": 0.3, "soft_weight": soft_weight, "reduction": reduction}
    value = linear_distillation(*call, objective=single, chunk=100, **options)
    # One chunk of four tiles.
    assert len(scored) == 4
    hard = linear_cross_entropy(call[0], call[1], call[4], impl="reference", reduction=reduction)
    wanted = soft_weight * unfused(call, single) + 0.3 * hard
    assert_same(with_gradients(value.loss, call, -2.0), with_gradients(wanted, call, -2.0))
    torch.testing.assert_close(value.hard, hard.detach())
    torch.testing.assert_close(value.soft, unfused(call, single).detach())


@pytest.mark.parametrize("name", ["kd", "nkd", "bdkd"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_ignored_rows_that_are_kept_reach_nothing(name, reduction):
    call = problem()
    single = type(OBJECTIVES[name])(reduction=reduction)
    options = {"objective": single, "hard_weight": 0.5, "reduction": reduction, "chunk": 5}
    wanted = with_gradients(linear_distillation(*call, **options).loss, call)
    broken = [tensor.detach().clone() for tensor in call[:3:2]]
    for hidden in broken:
        hidden[call[4] == -100] = torch.nan
    other = (broken[0].requires_grad_(), call[1], broken[1], *call[3:])
    found = with_gradients(linear_distillation(*other, drop_ignored=False, **options).loss, other)
    assert_same(found, wanted)
    # A cache's classes may be anything there, too.
    cache = TopKLogits(*(call[2] @ call[3].t()).topk(23))
    cache.classes[call[4] == -100] = -1
    found = linear_distillation(*call[:2], cache, target=call[4], drop_ignored=False, **options).loss
    assert_same(with_gradients(found, call), wanted)


@pytest.mark.parametrize("name", ["kd", "nkd", "dkd"])
def test_a_teacher_s_logits_are_read_where_they_lie(name):
    hidden, weight, teacher_hidden, teacher_weight, target = call = problem(tokens=(3, 4))
    logits = (teacher_hidden @ teacher_weight.t()).detach()
    before = logits.clone()
    found = linear_distillation(
        hidden, weight, TeacherLogits(logits), target=target, objective=OBJECTIVES[name], chunk=5
    ).loss
    assert_same(with_gradients(found, call), with_gradients(unfused(call, OBJECTIVES[name]), call))
    assert torch.equal(logits, before)


def test_a_single_tile_of_scores_is_not_copied():
    given = []

    def squared_loss(logits, teacher_logits, *, reduction):
        given.append(teacher_logits)
        return reduce((logits - teacher_logits).square().mean(dim=-1), reduction)

    hidden, weight, teacher_hidden, teacher_weight, _ = call = problem(vocabulary=7)
    logits = teacher_hidden @ teacher_weight.t()
    found = linear_distillation(hidden, weight, TeacherLogits(logits), objective=squared_loss, chunk=5).loss
    wanted = squared_loss(hidden @ weight.t(), logits, reduction="mean")
    assert_same(with_gradients(found, call), with_gradients(wanted, call))
    assert {rows.data_ptr() for rows in given} >= {logits[start:].data_ptr() for start in (0, 5, 10)}


def test_a_shift_predicts_the_next_token():
    call = problem(tokens=(3, 6))
    hidden, weight, teacher_hidden, teacher_weight, target = call
    found = linear_distillation(*call, objective=losses.NKD(), hard_weight=1.0, shift=1, chunk=5)
    cut = (hidden[:, :-1], weight, teacher_hidden[:, :-1], teacher_weight, target[:, 1:])
    wanted = unfused(cut, losses.NKD()) + linear_cross_entropy(*cut[:2], cut[4], impl="reference")
    assert_same(with_gradients(found.loss, call), with_gradients(wanted, call))


@pytest.mark.parametrize("tokens", [0, 1, 4])
def test_no_token_left_is_zero_with_zero_gradients(tokens):
    call = problem(tokens=(tokens,))
    call = (*call[:4], torch.full_like(call[4], -100))
    found = with_gradients(linear_distillation(*call, objective=losses.NKD(), hard_weight=1.0).loss, call)
    assert all((value == 0).all() for value in found)


@pytest.mark.parametrize("name", ["kd", "reverse_kl", "jsd", "nkd"])
def test_bfloat16_is_no_further_from_float64_than_the_pair_of_heads(name):
    call = problem(torch.bfloat16, tokens=(256,), vocabulary=64)
    exact_call = tuple(
        t.detach().double().requires_grad_() if n < 2 else t.double() if n < 4 else t for n, t in enumerate(call)
    )
    exact = with_gradients(unfused(exact_call, OBJECTIVES[name]), exact_call)
    found = with_gradients(linear_distillation(*call, objective=OBJECTIVES[name], chunk=64).loss, call)
    pair = with_gradients(unfused(call, OBJECTIVES[name]), call)
    assert found[0].dtype == torch.float32 and found[1].dtype == torch.bfloat16
    for fused, plain, wanted in zip(found, pair, exact, strict=True):
        # 4 chunks are added in bfloat16, one more rounding each than the pair's single product.
        assert (fused.double() - wanted).norm() <= 1.5 * (plain.double() - wanted).norm() + 1e-6


def test_autocast_and_a_teacher_of_another_precision():
    call = problem(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = linear_distillation(*call, objective=losses.KD(2.0)).loss
    exact = unfused(call, losses.KD(2.0))
    assert found.dtype == torch.float32 and found != exact
    torch.testing.assert_close(found, exact, rtol=0.05, atol=0)
    # Half the teacher's memory, the student's precision.
    mixed = linear_distillation(*call[:2], call[2].bfloat16(), call[3].bfloat16(), call[4], objective=losses.KD(2.0))
    torch.testing.assert_close(mixed.loss, exact, rtol=0.05, atol=0)


def test_any_row_wise_function_is_taken():
    def squared_loss(logits, teacher_logits, *, reduction):
        return reduce((logits - teacher_logits).square().mean(dim=-1), reduction)

    call = problem()
    found = linear_distillation(*call[:4], objective=squared_loss, chunk=5).loss
    logits, teacher_logits = call[0] @ call[1].t(), call[2] @ call[3].t()
    wanted = squared_loss(logits, teacher_logits, reduction="mean")
    assert_same(with_gradients(found, call), with_gradients(wanted, call))


@pytest.mark.parametrize(
    "loss",
    [
        losses.CrossEntropy(),
        losses.CrossEntropy(label_smoothing=0.1),
        losses.StableMaxCrossEntropy(),
        losses.Focal(2.0),
        losses.FocalAdaptive(),
    ],
    ids=repr,
)
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("impl", ["chunked", "autograd"])
def test_losses_without_a_teacher(impl, reduction, loss):
    hidden, weight, _, _, target = call = problem()
    bias = torch.linspace(-1, 1, 23, dtype=torch.float64)
    found = chunked_head(loss, hidden, weight, target, bias, chunk=5, impl=impl, reduction=reduction)
    wanted = reduce(loss.rows(loss.given(hidden @ weight.t() + bias, target)), reduction, target != -100)
    upstream = torch.linspace(-1, 2, 13, dtype=torch.float64) if reduction == "none" else 2.0
    assert_same(with_gradients(found, call, upstream), with_gradients(wanted, call, upstream))


def test_a_function_of_cross_entropy_costs_what_cross_entropy_does(monkeypatch):
    hidden, weight, _, _, target = problem()
    monkeypatch.setattr("lightning_losses.kernels.chunked_head.head_loss", None)
    assert chunked_head(losses.Focal(2.0), hidden, weight, target).isfinite()
    with pytest.raises(TypeError):
        chunked_head(losses.Focal(2.0), hidden, weight, target, impl="autograd")


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"reduction": "sum"}, {"normalizer": 20.0}], ids=str)
def test_stablemax_equals_the_loss_on_the_logits(options):
    hidden, weight, _, _, target = call = problem()
    bias = torch.linspace(-1, 1, 23, dtype=torch.float64).requires_grad_()
    found = linear_stablemax_cross_entropy(hidden, weight, target, bias, chunk=5, **options)
    settled = {name: value for name, value in options.items() if name != "normalizer"}
    wanted = losses.StableMaxCrossEntropy(**settled)(hidden @ weight.t() + bias, target)
    if "normalizer" in options:
        wanted = wanted * (target != -100).sum() / 20
    assert_same(with_gradients(found, (hidden, weight)), with_gradients(wanted, call))
    one, other = (
        torch.autograd.grad(f(), bias)[0]
        for f in (
            lambda: linear_stablemax_cross_entropy(hidden, weight, target, bias, chunk=5),
            lambda: losses.StableMaxCrossEntropy()(hidden @ weight.t() + bias, target),
        )
    )
    torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-13)


def test_a_retained_graph_gives_the_same_gradient_again_and_no_second_derivative():
    call = problem()
    loss = linear_distillation(*call, objective=losses.KD(2.0)).loss
    once = torch.autograd.grad(loss, call[0], retain_graph=True)[0]
    torch.testing.assert_close(torch.autograd.grad(3 * loss, call[0], retain_graph=True)[0], 3 * once)
    with pytest.raises(RuntimeError, match="create_graph"):
        torch.autograd.grad(loss, call[0], create_graph=True)


def test_what_cannot_be_chunked_is_refused():
    hidden, weight, _, _, target = problem()
    with pytest.raises(ValueError, match="couples the samples"):
        chunked_head(losses.SinKD(), hidden, weight, target)
    with pytest.raises(ValueError, match="use linear_cross_entropy"):
        chunked_head(losses.CrossEntropy(class_weight=[1.0] * 23), hidden, weight, target)
    with pytest.raises(ValueError, match="parameters to learn"):
        chunked_head(torch.nn.Linear(3, 3), hidden, weight, target)
    with pytest.raises(ValueError, match="no reduction"):
        chunked_head(torch.nn.Identity(), hidden, weight, target)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teacher_weight": None}, "without teacher_weight"),
        ({"teacher_weight": torch.zeros(22, 9, dtype=torch.float64)}, "vocabulary of 22 came with the student's of 23"),
        ({"teacher_hidden": torch.zeros(12, 9, dtype=torch.float64)}, r"teacher_hidden of shape \[12, 9\]"),
        ({"teacher_bias": torch.zeros(3)}, "teacher_bias"),
        ({"target": None, "hard_weight": 1.0}, "without target"),
        ({"target": None, "shift": 1}, "without target"),
        ({"shift": 13}, "give 0 to 12"),
        ({"hard_weight": -1.0}, "hard_weight"),
        ({"chunk": 0}, "chunk=0"),
        ({"impl": "liger"}, "impl='liger'"),
        ({"reduction": "avg"}, "reduction"),
        ({"reduction": "sum", "normalizer": 3.0}, "divides a mean"),
        ({"teacher_hidden": TopKLogits(torch.zeros(13, 2), torch.zeros(13, 2))}, "came with a teacher's head"),
        ({"teacher_hidden": TopKLogits(torch.zeros(13, 2), torch.zeros(13, 2)), "teacher_weight": None}, "int64"),
        (
            {
                "teacher_hidden": TopKLogits(torch.zeros(13, 2), torch.zeros(13, 2).long(), torch.zeros(13, 1)),
                "teacher_weight": None,
            },
            r"rest of shape \[13, 1\] came.*give \[13\]",
        ),
        ({"teacher_hidden": TeacherLogits(torch.zeros(13, 22)), "teacher_weight": None}, r"give \[13, 23\]"),
        ({"teacher_hidden": TeacherLogits(torch.zeros(13, 23))}, "came with a teacher's head"),
        ({"impl": "triton"}, "needs a CUDA device"),
    ],
)
def test_wrong_calls_are_one_sentence(change, message):
    names = ("hidden", "weight", "teacher_hidden", "teacher_weight", "target")
    call = {**dict(zip(names, problem(), strict=True)), "objective": losses.KD(), **change}
    with pytest.raises(ValueError, match=message):
        linear_distillation(**call)


def test_hidden_states_that_are_no_tensor_are_named():
    with pytest.raises(ValueError, match="^linear_distillation: hidden is a list; give a floating-point tensor.$"):
        linear_distillation(
            [[0.0]],
            weight=torch.ones(3, 1),
            objective=losses.KD(),
            teacher_hidden=torch.ones(1, 2),
            teacher_weight=torch.ones(3, 2),
        )


@pytest.mark.parametrize("wrong", [-1, 5])
def test_a_target_outside_a_truncated_vocabulary_is_refused(wrong):
    hidden, head, wider = torch.randn(4, 3), torch.randn(5, 3), torch.randn(6, 3)
    target = torch.tensor([0, 1, 2, wrong])
    with pytest.raises(ValueError, match=f"target {wrong} came with 5 classes"):
        linear_distillation(hidden, head, hidden, wider, target, objective=losses.NKD(), vocabulary="truncate")
