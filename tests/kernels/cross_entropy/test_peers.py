"""How other projects' heads are called, and what is said of what they refuse, without a card and without them."""

import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from lightning_losses import linear_cross_entropy
from lightning_losses.kernels.cross_entropy import peers
from lightning_losses.kernels.cross_entropy.peers import CCE, CCE_TORCH_COMPILE, LIGER, QUACK, TORCH
from lightning_losses.kernels.cross_entropy.problem import Problem
from lightning_losses.kernels.terms import Terms

pytestmark = pytest.mark.kernels


def on_a_card(monkeypatch, tokens=256, width=8, vocabulary=512, dtype=torch.bfloat16, capability=(9, 0), **options):
    """A problem whose tensors claim to be on a card with every package."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    for check in ("installed", "_has_module"):
        monkeypatch.setattr(peers, check, lambda name: True)
    with FakeTensorMode():
        hidden, weight = (torch.empty(length, width, dtype=dtype, device="cuda") for length in (tokens, vocabulary))
        target = torch.empty(tokens, dtype=torch.int64, device="cuda")
    return Problem(hidden, weight, target, Terms(vocabulary), shape=target.shape, **options)


@pytest.mark.parametrize(
    ("peer", "change", "message"),
    [
        (
            CCE,
            {"dtype": torch.float32},
            "needs bfloat16 or float16, and hidden has dtype torch.float32; use impl='auto'",
        ),
        (QUACK, {"dtype": torch.float32}, "needs bfloat16 or float16, and hidden has dtype torch.float32"),
        (QUACK, {"capability": (8, 0)}, "needs compute capability 9.0 or later, and the device has 8.0"),
        (QUACK, {"tokens": 255}, r"needs multiples of 8, and N, D, V and the chunk are \[255, 8, 512, 8\]"),
        (QUACK, {"chunk": 100}, r"are \[256, 8, 512, 100\]; use impl='auto'"),
        (QUACK, {"accum_dtype": torch.float32}, "has no accum_dtype"),
    ],
)
def test_what_a_peer_would_assert_is_said_before_it_is_called(monkeypatch, peer, change, message):
    assert peer.refuses(on_a_card(monkeypatch)) is None
    with pytest.raises(ValueError, match=message):
        raise ValueError(peer.refuses(on_a_card(monkeypatch, **change)))


@pytest.mark.parametrize(
    ("change", "hopper_s"),
    [
        ({}, True),
        ({"capability": (8, 0)}, False),
        ({"capability": (10, 0)}, False),
        ({"dtype": torch.float16}, False),
        ({"tokens": 200}, False),
        ({"vocabulary": 500}, False),
        ({"z_scale": 0.1}, False),
        ({"accum_dtype": torch.float32}, False),
    ],
)
def test_liger_takes_its_path_for_hopper_where_that_takes_the_problem(monkeypatch, change, hopper_s):
    called = []

    def operation(*arguments):
        called.append(arguments[3:])
        return torch.ones(()), torch.ones(())

    fakes = {
        "liger_fused_linear_cross_entropy_sm90": lambda *arguments: operation(*arguments)[0],
        "LigerFusedLinearCrossEntropyFunction": SimpleNamespace(apply=operation),
    }
    monkeypatch.setattr(peers, "_module", lambda name: SimpleNamespace(**fakes))
    problem = on_a_card(monkeypatch, **change)
    assert LIGER.refuses(problem) is None
    LIGER.evaluate(problem)
    assert (called[0] == (-100, "sum")) is hopper_s and len(called) == 1


def scaled(hidden, weight, target, temperature, ignored, clusters, entropy):
    log_s = (hidden @ weight.t() / temperature).log_softmax(dim=1)
    losses = F.nll_loss(log_s, target, reduction="none", ignore_index=ignored)
    return (losses, -(log_s.exp() * log_s).sum(dim=1)) if entropy else losses


@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_liger_s_rows_and_entropies_stand_where_the_tokens_do(monkeypatch, reduction):
    function = SimpleNamespace(apply=scaled)
    monkeypatch.setattr(
        peers, "_module", lambda name: SimpleNamespace(LigerFusedScaledCrossEntropySM90Function=function)
    )
    for check in ("installed", "_has_module"):
        monkeypatch.setattr(peers, check, lambda name: True)
    call = {"hidden": torch.randn(3, 5, 4), "weight": torch.randn(8, 4), "target": torch.randint(8, (3, 5))}
    call["target"][1, :3] = -100
    asked = {"temperature": 2.0, "reduction": reduction, "return_entropy": True, "return_log_probability": True}
    with pytest.raises(ValueError, match=r"impl='liger' needs bfloat16 on a GPU of compute capability 9\.0 for losses"):
        linear_cross_entropy(**call, **asked, impl="liger")
    monkeypatch.setattr(peers.Peer, "refuses", lambda self, problem: None)
    found = linear_cross_entropy(**call, **asked, impl="liger", drop_ignored=False)
    dropped = linear_cross_entropy(**call, **asked, impl="liger")
    expected = linear_cross_entropy(**call, **asked, impl="reference")
    for name in ("loss", "entropy", "log_probability"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name))
        torch.testing.assert_close(getattr(dropped, name), getattr(expected, name))


def test_liger_s_rows_have_no_logsumexp(monkeypatch):
    assert LIGER.refuses(on_a_card(monkeypatch, per_row=True, entropy=True)) is None
    assert LIGER.refuses(on_a_card(monkeypatch, per_row=True, lse=True)).startswith("impl='liger' has no return_lse;")
    assert "compute capability 9.0" in LIGER.refuses(on_a_card(monkeypatch, per_row=True, capability=(8, 0)))


def test_quack_s_sum_is_scaled_and_ignored_tokens_count_for_nothing(monkeypatch):
    def chunked_linear_cross_entropy(hidden, weight, target, **options):
        assert options == {"reduction": "sum", "tuned": False, "chunk_size": 8}
        return F.cross_entropy(hidden @ weight.t(), target, reduction="sum")

    monkeypatch.setitem(sys.modules, "quack", SimpleNamespace())
    monkeypatch.setitem(
        sys.modules,
        "quack.linear_cross_entropy",
        SimpleNamespace(chunked_linear_cross_entropy=chunked_linear_cross_entropy),
    )
    monkeypatch.setattr(peers.Peer, "refuses", lambda self, problem: None)
    hidden, weight = torch.randn(16, 4, requires_grad=True), torch.randn(8, 4)
    target = torch.randint(8, (16,))
    target[::3] = -100
    loss = linear_cross_entropy(hidden, weight, target, impl="quack", chunk=8)
    expected = F.cross_entropy(hidden @ weight.t(), target)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(*(torch.autograd.grad(value, hidden)[0] for value in (loss, expected)))


@pytest.mark.parametrize(
    "options", [{"chunk": 5}, {"accum_dtype": torch.float32}, {"chunk": 5, "reduction": "sum"}], ids=str
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_torch_takes_a_chunk_and_what_gradients_gather_in(options, dtype):
    if not peers.has_torch_operation():
        pytest.skip("this torch has no chunked linear_cross_entropy")
    hidden, weight = torch.randn(17, 6).to(dtype).requires_grad_(), torch.randn(9, 6).to(dtype).requires_grad_()
    target = torch.randint(9, (17,))
    target[3] = -100
    loss = linear_cross_entropy(hidden, weight, target, impl="torch", **options)
    assert loss.dtype == torch.float32
    options.pop("accum_dtype", None)
    expected = linear_cross_entropy(hidden, weight, target, impl="chunked", **options)
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 2e-2}
    torch.testing.assert_close(loss, expected, **tolerance)
    for one, other in zip(*(torch.autograd.grad(value, (hidden, weight)) for value in (loss, expected)), strict=True):
        torch.testing.assert_close(one, other, **tolerance)


@pytest.mark.parametrize("peer", [TORCH, CCE, CCE_TORCH_COMPILE, LIGER, QUACK], ids=lambda peer: peer.name)
def test_no_rows_are_0_without_the_package(peer):
    hidden, weight = (torch.ones(shape).requires_grad_() for shape in ((0, 4), (5, 4)))
    loss = peer.evaluate(
        Problem(hidden, weight, torch.zeros(0, dtype=torch.int64), Terms(5), shape=torch.Size([0]))
    ).loss
    gradients = torch.autograd.grad(loss, (hidden, weight))
    assert loss == 0 and gradients[0].shape == (0, 4) and (gradients[1] == 0).all()
