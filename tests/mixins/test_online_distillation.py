"""Networks that train together."""

import lightning as L
import pytest
import torch
from torch import nn
from torch.distributed.fsdp import fully_shard

from lightning_losses import BDKD, KD, CrossEntropy, Objective
from lightning_losses.losses import Asymmetric, Fishr
from lightning_losses.modules import OnlineDistiller
from tests.distributed.processes import Sharded, one_step


def pair(objective=None):
    objective = objective or Objective({"kd": KD(2.0)})
    return OnlineDistiller(
        nn.Linear(4, 3), Objective({"kd": KD(2.0)}), network=nn.Linear(4, 3), objective=objective, num_classes=3
    )


def test_each_network_gets_its_own_gradient_alone():
    module = pair()
    inputs, target = torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])
    module.training_step({"inputs": inputs, "target": target}, 0)["loss"].backward()
    with torch.no_grad():
        student_logits, peer_logits = module.network(inputs), module.peer(inputs)
    for network, other in [(module.network, peer_logits), (module.peer, student_logits)]:
        loss = KD(2.0)(network(inputs), other)
        (expected,) = torch.autograd.grad(loss, [network.weight])
        torch.testing.assert_close(network.weight.grad, expected)


def test_both_networks_reach_optimizer_and_checkpoint():
    module = pair(Objective({"ce": CrossEntropy()}))
    assert {"network.weight", "peer.weight"} <= set(module.state_dict())
    assert len(module.configure_optimizers().param_groups[0]["params"]) == 4


def test_missing_inputs_are_one_sentence():
    with pytest.raises(ValueError, match="needs 'inputs' .for the peer. and 'logits'; the step offered 'logits'"):
        pair().apply_objective(logits=torch.zeros(2, 3))


def trio():
    torch.manual_seed(0)
    networks = [nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)) for _ in range(3)]
    return Trio(
        peers=networks[1:],
        peer_objective=Objective({"ce": CrossEntropy(), "kd": KD(3.0)}),
        network=networks[0],
        objective=Objective({"ce": CrossEntropy(), "bdkd": BDKD()}),
        num_classes=3,
        optimizer=lambda parameters: torch.optim.SGD(parameters, 0.1, momentum=0.9),
    )


class Trio(Sharded, OnlineDistiller):
    """Three networks, each of which FSDP2 can shard."""

    def configure_model(self):
        if self.device_mesh is not None and not getattr(self, "_sharded", False):
            for peer in self.peers:
                for layer in (peer[0], peer[2]):
                    fully_shard(layer, mesh=self.device_mesh["data_parallel"])
        super().configure_model()


def batch(rows=slice(None)):
    generator = torch.Generator().manual_seed(1)
    inputs, target = torch.randn(10, 4, generator=generator), torch.arange(10) % 3
    target[2] = -100
    return {"inputs": inputs[rows], "target": target[rows]}


def test_three_networks_learn_from_the_mean_over_the_two_others():
    module, step = trio(), batch()
    output = module.training_step(step, 0)
    output["loss"].backward()
    networks = [module.network, *module.peers]
    with torch.no_grad():
        logits = [network(step["inputs"]) for network in networks]
    assert [torch.equal(output["peer_logits"][name], logits[1 + int(name)]) for name in ("0", "1")] == [True, True]
    for number, network in enumerate(networks):
        own, taught_by = network(step["inputs"]), [logits[other] for other in range(3) if other != number]
        divergence = BDKD() if number == 0 else KD(3.0)
        loss = CrossEntropy()(own, step["target"])
        loss = loss + sum(divergence(own, other, step["target"]) for other in taught_by) / 2
        for found, expected in zip(
            [parameter.grad for parameter in network.parameters()],
            torch.autograd.grad(loss, list(network.parameters())),
            strict=True,
        ):
            torch.testing.assert_close(found, expected)


def test_a_resumed_training_of_three_is_the_uninterrupted_one(tmp_path):
    def trainer(epochs):
        return L.Trainer(
            default_root_dir=tmp_path, accelerator="cpu", max_epochs=epochs, logger=False, enable_progress_bar=False,
            enable_model_summary=False, enable_checkpointing=False, limit_val_batches=0,
        )  # fmt: skip

    loader = torch.utils.data.DataLoader([batch(slice(0, 5)), batch(slice(5, 10))], batch_size=None)
    whole, begun, resumed = trio(), trio(), trio()
    trainer(3).fit(whole, loader, loader)
    first = trainer(2)
    first.fit(begun, loader, loader)
    first.save_checkpoint(tmp_path / "cut.ckpt")
    with torch.no_grad():
        resumed.peers[1][0].weight.zero_()
    last = trainer(3)
    last.fit(resumed, loader, loader, ckpt_path=tmp_path / "cut.ckpt", weights_only=True)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name
    assert {"train/loss/bdkd", "train/peer_0_loss/kd", "train/peer_1_loss/kd"} <= set(last.logged_metrics)


@pytest.mark.distributed
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_three_networks_on_two_processes_equal_one(strategy, tmp_path):
    one = one_step(trio, [[batch()]], tmp_path)
    two = one_step(trio, [[batch(slice(0, 4))], [batch(slice(4, 10))]], tmp_path, strategy)
    assert len(one["gradients"]) == 12
    # Float32 sums in another order.
    torch.testing.assert_close(two["loss"], one["loss"], rtol=1e-5, atol=1e-7)
    for name, gradient in one["gradients"].items():
        torch.testing.assert_close(two["gradients"][name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_a_module_without_peers_is_refused():
    with pytest.raises(ValueError, match="^OnlineDistiller: give peer= or peers="):
        OnlineDistiller(network=nn.Linear(4, 3), objective=Objective({"kd": KD()}), num_classes=3)


class Stages(nn.Sequential):
    feature_info = [{"module": "0"}, {"module": "1"}]


def fishr():
    return Objective({"ce": CrossEntropy(), "fishr": Fishr(num_domains=2, num_classes=3, feature_dim=5)})


STEP = {"inputs": torch.ones(4, 4), "target": torch.arange(4) % 3, "domain": torch.arange(4) % 2}


def test_the_students_losses_learn_from_what_they_were_offered():
    objective, network = fishr(), Stages(nn.Linear(4, 5), nn.Linear(5, 3))
    module = OnlineDistiller(
        nn.Linear(4, 3), Objective({"ce": CrossEntropy()}), network=network, objective=objective, num_classes=3,
        feature_layer="0",
    )  # fmt: skip
    module.training_step(STEP, 0)
    assert objective.terms["fishr"].loss.moving_variance.any()


def test_labels_of_the_target_are_every_networks():
    labelled = [Objective({"asl": Asymmetric()}) for _ in range(2)]
    module = OnlineDistiller(
        nn.Linear(4, 3), labelled[0], network=nn.Linear(4, 3), objective=labelled[1], num_classes=3
    )
    hot = nn.functional.one_hot(STEP["target"], 3)
    wanted = sum(Asymmetric()(network(STEP["inputs"]), hot) for network in (module.network, module.peer))
    torch.testing.assert_close(module.training_step(STEP, 0)["loss"], wanted)


def test_losses_that_would_not_learn_are_refused():
    module = OnlineDistiller(
        nn.Linear(4, 3), fishr(), network=nn.Linear(4, 3), objective=pair().objective, num_classes=3
    )
    with pytest.raises(ValueError) as raised:
        module.training_step(STEP, 0)
    assert str(raised.value) == (
        "OnlineDistiller: peer_objective's term 'fishr' learns from training steps, of which only the student's "
        "objective is told; give peer_objective a loss that keeps nothing."
    )
