import itertools
import math

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from lightning_losses.kernels import head, vocab_parallel
from lightning_losses.kernels.cross_entropy.avx512 import passed_over
from lightning_losses.kernels.linear_cross_entropy import linear_cross_entropy
from lightning_losses.kernels.vocab_parallel import vocab_parallel_cross_entropy, vocabulary_range
from tests.distributed.processes import in_group, run_on_processes
from tests.kernels.test_linear_cross_entropy import masked_problem, problem

pytestmark = pytest.mark.kernels

OPTIONS = {
    "plain": {},
    "label_smoothing": {"label_smoothing": 0.1},
    "z_loss": {"z_loss": 0.02, "reduction": "sum"},
    "softcap_shift": {"softcap": 3.0, "shift": 1},
    "all": {"label_smoothing": 0.2, "z_loss": 0.02, "softcap": 3.0, "class_weight": True, "normalizer": 40},
    "smoothed_weights": {"label_smoothing": 0.2, "class_weight": True},
    "masked": {"label_smoothing": 0.2, "class_weight": True, "masked": True},
}
SPLITS = [[12, 11], [20, 3], [23, 0], [1, 22]]


def call(name, scale, dtype=torch.float64):
    options = dict(OPTIONS[name])
    if options.pop("class_weight", False):
        options["class_weight"] = torch.linspace(0.5, 2.0, 23, dtype=torch.float64)
    return (masked_problem if options.pop("masked", False) else problem)(dtype, scale=scale), options


def check_split(name, split, scale):
    torch.set_default_dtype(torch.float64)
    (hidden, weight, target, bias), options = call(name, scale)
    rank = torch.distributed.get_rank()
    own = torch.arange(23).split(split)[rank]
    mine, my_bias = (t.detach()[own].requires_grad_() for t in (weight, bias))
    value = vocab_parallel_cross_entropy(hidden, mine, target, my_bias, chunk=5, **options)
    assert value.loss.isfinite()
    found = [value.loss, *torch.autograd.grad(-2 * value.loss, [hidden, mine, my_bias])]
    wanted = linear_cross_entropy(hidden, weight, target, bias, impl="reference", return_z_loss=True, **options)
    gradients = torch.autograd.grad(-2 * wanted.loss, [hidden, weight, bias])
    # float64 sums in another order: a few roundings.
    for one, other in zip(found, [wanted.loss, gradients[0], gradients[1][own], gradients[2][own]], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(value.z_loss, wanted.z_loss, rtol=1e-10, atol=1e-12)


def check_everything():
    head.tile_width = lambda *settings: 7
    for name in OPTIONS:
        for split in SPLITS:
            for scale in (1.0, 200.0):
                check_split(name, split, scale)


@pytest.mark.distributed
def test_two_processes_equal_one_for_even_and_uneven_splits():
    run_on_processes(in_group, 2, check_everything)


def check_compiled():
    scored = []
    making = vocab_parallel.Avx512Scores.__init__
    vocab_parallel.Avx512Scores.__init__ = lambda self, *given, **asked: scored.append(making(self, *given, **asked))
    for name, split, scale, dtype in itertools.product(OPTIONS, SPLITS, (1.0, 40.0), (torch.float32, torch.bfloat16)):
        tensors, options = call(name, scale, dtype)
        # A softcap's slopes at scores far above it are differences that float32 does not hold.
        if passed_over(tensors[0], tensors[1]) or (scale > 1 and "softcap" in options):
            continue
        hidden, weight, target, bias = tensors
        own = torch.arange(23).split(split)[torch.distributed.get_rank()]
        mine, my_bias = (t.detach()[own].requires_grad_() for t in (weight, bias))
        scored.clear()
        value = vocab_parallel_cross_entropy(hidden, mine, target, my_bias, chunk=5, **options)
        # Of 12 or 8 tokens by 5, and again where the first chunk's scores were too large.
        assert len(scored) >= 2
        found = torch.autograd.grad(-2 * value.loss, [hidden, mine, my_bias])
        exact = [t.detach().double().requires_grad_() for t in (hidden, weight, bias)]
        wanted = linear_cross_entropy(*exact[:2], target, exact[2], impl="reference", **options)
        gradients = torch.autograd.grad(-2 * wanted, exact)
        torch.testing.assert_close(value.loss.double(), wanted, rtol=1e-5, atol=1e-5)
        error = 2e-5 if dtype == torch.float32 else 1e-2
        for one, other in zip(found, [gradients[0], gradients[1][own], gradients[2][own]], strict=True):
            assert (one.double() - other).norm() <= error * other.norm() + 1e-12


@pytest.mark.distributed
@pytest.mark.skipif(
    passed_over(torch.zeros(1, 1), torch.zeros(1, 1)) is not None, reason="the compiled walk is not the fastest here"
)
def test_two_processes_with_compiled_scores_equal_one():
    run_on_processes(in_group, 2, check_compiled)


def check_default_chunks():
    # A vocabulary small enough that its size decides: by their own shares the processes would cut at 512 and at 104.
    hidden, target = torch.ones(600, 2), torch.zeros(600, dtype=torch.int64)
    rows = (3, 20_000)[torch.distributed.get_rank()]
    loss = vocab_parallel_cross_entropy(hidden, torch.zeros(rows, 2), target).loss
    torch.testing.assert_close(loss.item(), math.log(20_003), rtol=1e-5, atol=0)


@pytest.mark.distributed
def test_processes_with_unlike_shares_cut_the_tokens_alike():
    run_on_processes(in_group, 2, check_default_chunks)


def check_dtensor():
    (hidden, weight, target, bias), _ = call("plain", 1.0)
    mesh = init_device_mesh("cpu", (2,))
    split, split_bias = (distribute_tensor(t.detach(), mesh, [Shard(0)]).requires_grad_() for t in (weight, bias))
    loss = vocab_parallel_cross_entropy(hidden, split, target, split_bias, label_smoothing=0.1).loss
    found = torch.autograd.grad(loss, [hidden, split, split_bias])
    assert isinstance(found[1], DTensor)
    wanted_loss = linear_cross_entropy(hidden, weight, target, bias, label_smoothing=0.1, impl="reference")
    wanted = torch.autograd.grad(wanted_loss, [hidden, weight, bias])
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one.full_tensor() if isinstance(one, DTensor) else one, other)
    with pytest.raises(ValueError, match="full_tensor"):
        linear_cross_entropy(hidden, split, target)
    with pytest.raises(ValueError, match=r"Shard\(0\)"):
        vocab_parallel_cross_entropy(hidden, distribute_tensor(weight.detach(), mesh, [Replicate()]), target)


def check_known_sizes():
    """With known sizes nobody is asked for any, and a compiled step has no break."""
    vocab_parallel.sizes_of_all = None
    (hidden, weight, target, bias), _ = call("plain", 1.0)
    mesh, rank = init_device_mesh("cpu", (2,)), torch.distributed.get_rank()
    wanted = torch.autograd.grad(linear_cross_entropy(hidden, weight, target, bias), [hidden, weight])

    def step(hidden, weight, bias, sizes=None):
        return vocab_parallel_cross_entropy(hidden * 1.0, weight, target, bias, sizes=sizes).loss

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    whole = [t.detach() for t in (weight, bias)]
    for function in (step, compiled):
        split = [distribute_tensor(t, mesh, [Shard(0)]).requires_grad_() for t in whole]
        found = torch.autograd.grad(function(hidden, *split), [hidden, split[0]])
        torch.testing.assert_close([found[0], found[1].full_tensor()], list(wanted))
        own = torch.arange(23).split([20, 3])[rank]
        mine = [t[own].requires_grad_() for t in whole]
        found = torch.autograd.grad(function(hidden, *mine, sizes=(20, 3)), [hidden, mine[0]])
        torch.testing.assert_close(found, (wanted[0], wanted[1][own]))
    with pytest.raises(ValueError, match=rf"sizes=\[3, 20\] came with {len(own)} rows on process {rank}"):
        step(hidden, *mine, sizes=(3, 20))


def check_dtensors():
    check_dtensor()
    check_known_sizes()


@pytest.mark.distributed
def test_a_dtensor_split_by_rows_is_taken_and_any_other_refused():
    run_on_processes(in_group, 2, check_dtensors)


def test_one_process_alone_is_plain_linear_cross_entropy():
    hidden, weight, target, bias = problem()
    value = vocab_parallel_cross_entropy(hidden, weight, target, bias, z_loss=0.1)
    wanted = linear_cross_entropy(hidden, weight, target, bias, z_loss=0.1, impl="reference")
    torch.testing.assert_close(value.loss, wanted, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reduction": "none"}, "choose one of 'mean', 'sum'"),
        ({"class_weight": torch.ones(3)}, "vocabulary of 23 over all processes"),
        ({"target": torch.full((3, 6), 23)}, "target 23"),
    ],
)
def test_wrong_calls_are_one_sentence(change, message):
    names = ("hidden", "weight", "target", "bias")
    with pytest.raises(ValueError, match=message):
        vocab_parallel_cross_entropy(**{**dict(zip(names, problem(), strict=True)), **change})


def test_ranges_cover_the_vocabulary_in_order():
    for vocabulary in range(1, 12):
        for processes in range(1, 6):
            ranges = [vocabulary_range(vocabulary, rank, processes) for rank in range(processes)]
            assert [entry for one in ranges for entry in one] == list(range(vocabulary))
            assert max(map(len, ranges)) - min(map(len, ranges)) <= 1
