"""Tapping layers by name."""

import copy

import lightning as L
import pytest
import torch
from torch import nn

from lightning_losses import RKD, CrossEntropy, FitNetHint, Objective
from lightning_losses.modules import Distiller
from lightning_losses.teachers.feature_taps import FeatureTap, layers_to_tap, penultimate_stage, pooled, stages
from tests.distributed.processes import Sharded, one_step


def network():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))


def test_tap_keeps_the_latest_output_and_its_gradient():
    net = network()
    tap = FeatureTap(net, ["0", "1"])
    net(torch.randn(2, 1, 8, 8))
    logits = net(torch.randn(3, 1, 8, 8))
    assert tap.features["1"].shape == (3, 4, 6, 6)
    assert torch.equal(tap.features["1"], tap.features["0"].relu())
    (gradient,) = torch.autograd.grad(logits.sum(), tap.features["1"])
    assert gradient.abs().sum() > 0


def test_closed_tap_leaves_no_hooks():
    net = network()
    with FeatureTap(net, ["0"]) as tap:
        net(torch.zeros(1, 1, 8, 8))
    tap.features.clear()
    net(torch.zeros(1, 1, 8, 8))
    assert not tap.features
    assert not net[0]._forward_hooks


def test_tapped_network_can_be_copied():
    net = network()
    FeatureTap(net, ["0"])
    assert copy.deepcopy(net)(torch.zeros(1, 1, 8, 8)).shape == (1, 3)


def test_unknown_layer_lists_those_there_are():
    with pytest.raises(ValueError, match=r"\['9'\] came.*its layers are 0, 1, 2, 3"):
        FeatureTap(network(), ["9"])


def test_pooling_of_maps_tokens_and_vectors():
    assert pooled(torch.ones(2, 3, 4, 4)).tolist() == [[1.0] * 3] * 2
    assert pooled(torch.ones(2, 5, 3)).shape == (2, 3)
    assert pooled(torch.ones(2, 3)).shape == (2, 3)
    with pytest.raises(ValueError, match=r"shape \[2\]"):
        pooled(torch.ones(2))


def test_penultimate_stage_of_timm_networks_and_of_unknown_ones():
    import timm

    resnet = timm.create_model("test_resnet", num_classes=3)
    assert penultimate_stage(resnet) == "layer3"
    with pytest.raises(ValueError, match="Linear has no feature_info that lists its stages"):
        penultimate_stage(nn.Linear(2, 2))


def test_an_opened_tap_listens_again():
    net = network()
    tap = FeatureTap(net, ["1", "0"])
    tap.close()
    tap.close()
    assert not net[0]._forward_hooks and not net[1]._forward_hooks
    with pytest.raises(ValueError, match=r"^FeatureTap: \['1', '0'\] had no output since the tap was opened"):
        tap.latest()
    tap.open()
    tap.open()
    net(torch.zeros(1, 1, 8, 8))
    assert len(net[0]._forward_hooks) == 1
    assert list(tap.latest()) == tap.layers == ["1", "0"]


@pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*:FutureWarning")
def test_a_compiled_network_is_tapped():
    torch.compiler.reset()
    plain, inputs = network(), torch.randn(2, 1, 8, 8)
    tap = FeatureTap(plain, ["1"])
    compiled = torch.compile(plain, backend="aot_eager")
    for _ in range(2):
        logits = compiled(inputs)
        torch.testing.assert_close(tap.features["1"], plain[:2](inputs))
        # The gradient of what was tapped, and of the whole, goes through the compiled graph.
        (tap.features["1"].square().sum() + logits.sum()).backward()
        expected = plain[0].weight.grad.clone()
        plain.zero_grad()
        hidden = plain[:2](inputs)
        (hidden.square().sum() + plain[2:](hidden).sum()).backward()
        # Sums in another order.
        torch.testing.assert_close(expected, plain[0].weight.grad, rtol=1e-4, atol=1e-4)
        plain.zero_grad()
    assert FeatureTap(compiled, ["1"]).layers == ["1"]
    torch.compiler.reset()


def test_layers_are_chosen_by_name_or_as_stages():
    import timm

    resnet = timm.create_model("test_resnet", num_classes=3)
    assert layers_to_tap(resnet, None) == ["layer3"]
    assert layers_to_tap(resnet, "all") == stages(resnet) and len(stages(resnet)) > 3
    assert layers_to_tap(resnet, "layer1") == ["layer1"] and layers_to_tap(resnet, ["a", "b"]) == ["a", "b"]
    with pytest.raises(ValueError, match="^stages: Linear has no feature_info that lists its stages"):
        layers_to_tap(nn.Linear(2, 2), "all")


class Student(Sharded, Distiller):
    """A student that FSDP2 can shard."""


def hinted():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3))
    return Student(
        nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)),
        teacher_layer=["0", "1"],
        network=network,
        objective=Objective({"ce": CrossEntropy(), "hint": FitNetHint(layers=2), "rkd": RKD()}),
        num_classes=3,
        optimizer=lambda parameters: torch.optim.SGD(parameters, 0.1),
        feature_layer=["1", "3"],
        example_inputs=torch.zeros(2, 4),
    )


def batch(rows=slice(None)):
    inputs = torch.randn(10, 4, generator=torch.Generator().manual_seed(1))
    return {"inputs": 2 * inputs[rows], "target": (torch.arange(10) % 3)[rows]}


@pytest.mark.distributed
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_tapped_layers_and_projectors_on_two_processes_equal_one(strategy, tmp_path):
    one = one_step(hinted, [[batch()]], tmp_path)
    two = one_step(hinted, [[batch(slice(0, 4))], [batch(slice(4, 10))]], tmp_path, strategy)
    assert {name for name in one["gradients"] if "regressor" in name} == {
        f"objective.terms.hint.loss.regressor.{number}.{part}" for number in (0, 1) for part in ("weight", "bias")
    }
    torch.testing.assert_close(two["loss"], one["loss"], rtol=1e-5, atol=1e-7)
    for name, gradient in one["gradients"].items():
        # Float32 sums in another order.
        torch.testing.assert_close(two["gradients"][name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_projectors_train_and_are_saved_and_the_network_goes_without_them_and_without_hooks(tmp_path):
    module = hinted()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    trainer = L.Trainer(
        default_root_dir=tmp_path, accelerator="cpu", max_epochs=1, logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, limit_val_batches=0,
    )  # fmt: skip
    loader = torch.utils.data.DataLoader([batch()], batch_size=None)
    trainer.fit(module, loader, loader)
    projectors = [name for name in module.state_dict() if "regressor" in name]
    assert len(projectors) == 4
    assert all(not torch.equal(module.state_dict()[name], before[name]) for name in projectors)
    trainer.save_checkpoint(tmp_path / "module.ckpt")
    again = hinted()
    again.load_state_dict(torch.load(tmp_path / "module.ckpt", weights_only=True)["state_dict"])
    assert torch.equal(again.state_dict()[projectors[0]], module.state_dict()[projectors[0]])
    assert not any("regressor" in name for name in module.network.state_dict())
    assert not any(layer._forward_hooks for layer in module.network.modules())
    torch.export.export(copy.deepcopy(module.network).eval(), (torch.zeros(2, 4),))
    # Another training taps it again.
    trainer = L.Trainer(
        default_root_dir=tmp_path, accelerator="cpu", max_epochs=1, logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(module, loader, loader)


def test_a_copy_of_a_network_that_learns_begins_without_outputs():
    network = nn.Sequential(nn.Linear(2, 3), nn.Tanh())
    tap = FeatureTap(network, ["0"])
    network(torch.zeros(1, 2))
    twin, other = copy.deepcopy((network, tap))
    # What belongs to a graph can't be copied.
    assert tap.latest()["0"].requires_grad and not other.features
    twin(torch.ones(1, 2))
    assert torch.equal(other.latest()["0"], twin[0](torch.ones(1, 2)))
    assert torch.equal(tap.latest()["0"], network[0](torch.zeros(1, 2)))
