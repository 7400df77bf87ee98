"""Which parts are blocks, and that recomputing and compiling them changes nothing but time and memory."""

import copy

import pytest
import torch
from torch import nn

from lightning_losses.networks.transformer import Transformer
from lightning_losses.parallel.blocks import Execution, blocks_of
from lightning_losses.teachers.feature_taps import FeatureTap


def network():
    torch.manual_seed(0)
    block = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.ReLU())
    return nn.Sequential(nn.Linear(4, 4), block, nn.Linear(4, 2))


def gradients(module, seed=1):
    torch.manual_seed(seed)
    module(torch.arange(24.0).reshape(6, 4).sin()).square().sum().backward()
    return {name: parameter.grad for name, parameter in module.named_parameters()}


def test_blocks_are_found_by_class_and_by_size():
    transformer = Transformer(9, context_length=8, width=8, depth=3, heads=2)
    blocks = list(transformer.blocks)
    assert blocks_of(transformer, ["Block"]) == blocks
    assert blocks_of(transformer, min_parameters=100) == blocks
    assert blocks_of(transformer) == []
    plain = network()
    # The outermost: not the linear layer within the second.
    assert blocks_of(plain, min_parameters=11) == [plain[0], plain[1]]


def test_wrong_blocks_are_refused():
    with pytest.raises(
        ValueError, match="blocks: Sequential has no Block; it consists of BatchNorm1d, Dropout, Linear"
    ):
        blocks_of(network(), ["Block"])
    with pytest.raises(ValueError, match=r"blocks: names='Block' came; give a list of class names, such as \[Block\]"):
        blocks_of(network(), "Block")
    with pytest.raises(ValueError, match="min_parameters"):
        blocks_of(network(), min_parameters=0)
    with pytest.raises(ValueError, match=r"compile: backend='fast' came; choose one of .*inductor"):
        Execution(compile="fast").prepare(network())


@pytest.mark.parametrize(("cuda", "triton", "environment", "message"), [
    (False, False, {"PATH": ""}, "and no compiler of C++ runs here (g++); install one, name one in CXX"),
    (False, False, {"CXX": "/no/g++"}, "and no compiler of C++ runs here (/no/g++); install one, name one in CXX"),
    (False, False, {"CXX": "false"}, "and no compiler of C++ runs here (false); install one, name one in CXX"),
    (True, True, {"PATH": "", "CC": ""}, "and no compiler of C runs here (gcc or clang); install one, name one in CC"),
    (True, False, {}, "which needs Triton on a GPU; pip install triton"),
], ids=["none", "elsewhere", "broken", "none for Triton", "no Triton"])  # fmt: skip
def test_a_machine_that_inductor_can_not_compile_on_is_told(monkeypatch, cuda, triton, environment, message):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if triton else None)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("CXX", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError) as found:
        Execution(compile="inductor").check(nn.Linear(1, 1), cuda=cuda)
    assert str(found.value) == f"compile: backend='inductor' came, {message}, or give null."
    Execution(compile="eager").check(nn.Linear(1, 1), cuda=cuda)


@pytest.mark.parametrize("blocks", [None, ["Sequential"]])
def test_recomputed_activations_give_the_same_gradients_and_statistics(blocks):
    plain, recomputed = network(), network()
    calls = []
    recomputed[1][0].register_forward_hook(lambda *_: calls.append(1))
    Execution(blocks=blocks, activation_checkpointing=True).prepare(recomputed)
    wanted = gradients(plain)
    for name, gradient in gradients(recomputed).items():
        assert torch.equal(gradient, wanted[name]), name
    assert len(calls) == 2
    for name, buffer in recomputed.named_buffers():
        assert torch.equal(buffer, plain.get_buffer(name)), name
    assert recomputed.state_dict().keys() == plain.state_dict().keys()


# Of torch, while it looks at a block's input.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf Tensor:UserWarning")
def test_compiled_blocks_give_the_same_gradients_and_tapped_features():
    plain, compiled = network(), network()
    with FeatureTap(plain, ["1"]) as wanted, FeatureTap(compiled, ["1"]) as found:
        Execution(blocks=["Sequential"], compile="aot_eager").prepare(compiled)
        gradients(plain.eval()), gradients(compiled.eval())
    # The backward pass of a compiled block may fuse sums.
    for name, parameter in compiled.named_parameters():
        torch.testing.assert_close(parameter.grad, plain.get_parameter(name).grad, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.features["1"], wanted.features["1"])


def test_a_copy_of_a_recomputed_network_is_its_own():
    original = network()
    Execution(activation_checkpointing=True).prepare(original)
    twin, plain = copy.deepcopy(original), network()
    gradients(twin), gradients(plain)
    # Each batch is counted once in the copy as well.
    assert all(torch.equal(buffer, plain.get_buffer(name)) for name, buffer in twin.named_buffers())
    assert all(parameter.grad is None for parameter in original.parameters())
