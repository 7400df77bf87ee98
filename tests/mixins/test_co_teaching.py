"""Two networks that pick each other's samples."""

import itertools
import math

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributed.fsdp import fully_shard

from lightning_losses import CrossEntropy, Objective, ZLoss
from lightning_losses.losses import GCE, Asymmetric
from lightning_losses.mixins.co_teaching import forgotten_share, small_losses
from lightning_losses.modules.co_teacher import CoTeacher
from tests.distributed.processes import Sharded, one_step


class Pair(Sharded, CoTeacher):
    """Two networks, both of which FSDP2 can shard."""

    def configure_model(self):
        if self.device_mesh is not None and not getattr(self, "_sharded", False):
            for layer in (self.peer[0], self.peer[2]):
                fully_shard(layer, mesh=self.device_mesh["data_parallel"])
        super().configure_model()


def pair(forget_rate=0.5, objective=None, **options):
    torch.manual_seed(0)
    networks = [nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)) for _ in range(2)]
    return Pair(
        networks[1],
        Objective({"ce": CrossEntropy()}),
        forget_rate,
        **{"gradual_epochs": 1, **options},
        network=networks[0],
        objective=objective or Objective({"ce": CrossEntropy()}),
        num_classes=3,
        optimizer=lambda parameters: torch.optim.SGD(parameters, 0.5),
    )


def batch(rows=slice(None)):
    inputs, target = torch.randn(10, 4, generator=torch.Generator().manual_seed(1)), torch.arange(10) % 3
    target[2] = -100
    # An epoch in which all that is to be left out is.
    return {"inputs": inputs[rows], "target": target[rows], "epoch": 1}


def expected(module, steps, share=0.5):
    """The gradients of each network's mean over what the other picks of each batch."""
    networks, sums, numbers = [module.network, module.peer], [0, 0], [0, 0]
    for step in steps:
        logits = [network(step["inputs"]) for network in networks]
        kept = [i for i, label in enumerate(step["target"].tolist()) if label != -100]
        losses = [F.cross_entropy(scores, step["target"], reduction="none").tolist() for scores in logits]
        for own, other in ((0, 1), (1, 0)):
            left = max(math.floor((1 - share) * len(kept) + 1e-9), 1)
            picked = sorted(kept, key=lambda i, other=other: losses[other][i])[:left]
            sums[own] = sums[own] + F.cross_entropy(logits[own][picked], step["target"][picked], reduction="sum")
            numbers[own] += left
    return [
        torch.autograd.grad(total / number, list(network.parameters()))
        for total, number, network in zip(sums, numbers, networks, strict=True)
    ]


def assert_gradients(module, gradients):
    for network, wanted in zip([module.network, module.peer], gradients, strict=True):
        for parameter, gradient in zip(network.parameters(), wanted, strict=True):
            torch.testing.assert_close(parameter.grad, gradient)


def test_each_network_learns_what_the_other_picks():
    module = pair()
    output = module.training_step(batch(), 0)
    output["loss"].backward()
    assert_gradients(module, expected(module, [batch()]))
    assert torch.equal(output["target"], batch()["target"]) and output["peer_logits"].shape == (10, 3)


def test_soft_targets_are_picked_alike():
    hard, soft, step = pair(), pair(), batch()
    probabilities = F.one_hot(step["target"].clamp(min=0), 3) * (step["target"] != -100).unsqueeze(-1)
    for module, target in ((hard, step["target"]), (soft, probabilities.float())):
        module.training_step({**step, "target": target}, 0)["loss"].backward()
    torch.testing.assert_close(soft.peer[0].weight.grad, hard.peer[0].weight.grad)


@pytest.mark.parametrize(
    ("losses", "share", "ignored", "picked"),
    [
        ([3, 1, 2, 0], 0.5, [], [1, 3]),
        ([1, 1, 1, 1], 0.5, [], [0, 1]),
        ([5, 4], 0.9, [], [1]),
        ([1, 0, 2], 1.0, [], [1]),
        ([3, 1, 2, 0], 0.5, [3], [1]),
        ([math.nan, 1, math.inf, 2], 0.5, [], [1, 3]),
        ([math.nan, 1, 2, 2], 0.0, [2], [0, 1, 3]),
        ([1, 2], 0.5, [0, 1], []),
        (list(range(20)), 0.9, [], [0, 1]),
    ],
    ids=["halves", "ties", "at least one", "all", "ignored", "no number", "none", "all ignored", "1 less a rounding"],
)
def test_small_losses(losses, share, ignored, picked):
    kept = torch.ones(len(losses), dtype=torch.bool)
    kept[ignored] = False
    assert small_losses(torch.tensor(losses, dtype=torch.float32), share, kept).nonzero().flatten().tolist() == picked


def test_the_forms_of_the_schedule_differ_before_its_end():
    shares = {form: [forgotten_share(t, 0.4, 4, 2.0, form) for t in range(6)] for form in ("paper", "code")}
    assert shares["paper"] == pytest.approx([0, 0.025, 0.1, 0.225, 0.4, 0.4])
    assert shares["code"] == pytest.approx([0, 0.16 / 3, 0.32 / 3, 0.16, 0.4, 0.4])
    assert forgotten_share(0, 0.4, 1, 1.0, "code") == 0


def of_both(module, gradients):
    names = [f"{network}.{name}" for network in ("network", "peer") for name, _ in module.network.named_parameters()]
    return dict(zip(names, itertools.chain(*gradients), strict=True))


def test_each_accumulated_batch_is_picked_from(tmp_path):
    shares = [batch(slice(0, 4)), batch(slice(4, 10))]
    found = one_step(pair, [shares], tmp_path, accumulate=2)["gradients"]
    for name, gradient in of_both(pair(), expected(pair(), shares)).items():
        torch.testing.assert_close(found[name], gradient)


@pytest.mark.distributed
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes_pick_from_the_batch_of_both(strategy, tmp_path):
    found = one_step(pair, [[batch(slice(0, 4))], [batch(slice(4, 10))]], tmp_path, strategy)["gradients"]
    for name, gradient in of_both(pair(), expected(pair(), [batch()])).items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


def fit(module, folder, epochs, ckpt_path=None):
    steps = [{name: value for name, value in batch(rows).items() if name != "epoch"} for rows in (slice(7), slice(9))]
    loader = torch.utils.data.DataLoader(steps, batch_size=None)
    trainer = L.Trainer(
        default_root_dir=folder, accelerator="cpu", max_epochs=epochs, logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(module, loader, loader, ckpt_path=ckpt_path, weights_only=True)
    return trainer


def test_a_resumed_training_is_the_uninterrupted_one(tmp_path):
    whole, begun, resumed = (pair(gradual_epochs=3) for _ in range(3))
    fit(whole, tmp_path, 4)
    fit(begun, tmp_path, 2).save_checkpoint(tmp_path / "cut.ckpt")
    last = fit(resumed, tmp_path, 4, tmp_path / "cut.ckpt")
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name
    assert {"train/loss/ce", "train/peer_loss/ce"} <= set(last.logged_metrics)
    # The share has grown: without that the weights are others.
    other = pair(gradual_epochs=30)
    fit(other, tmp_path, 4)
    assert not torch.equal(other.peer[0].weight, whole.peer[0].weight)


def with_another_peer():
    module = pair()
    module.peers = nn.ModuleList([nn.Linear(4, 3)])
    return module


def without_settings():
    module = pair()
    del module.forget_rate
    return module


@pytest.mark.parametrize(
    ("make", "without", "message"),
    [
        (without_settings, (), "Pair: call start_co_teaching in the constructor."),
        (with_another_peer, (), "Pair: 3 networks came, and two pick each other's samples; set self.peer alone."),
        (pair, ("target",), "Pair: co-teaching picks samples by the cross-entropy with their 'target'; the step "
                            "offered 'epoch', 'inputs', 'logits'."),
        (lambda: pair(objective=Objective({"z": ZLoss(), "ce": CrossEntropy(ignore_index=7), "gce": GCE()})), (),
         "Pair: the terms ignore different targets, -100, 7; give all the same ignore_index, by which what is not "
         "picked is left out."),
        (lambda: pair(objective=Objective({"past": lambda logits: logits.sum()})), (),
         "Pair: a network's objective takes no 'target', by which what the other one does not pick is left out; give "
         "it a term of labels."),
    ],
    ids=["no settings", "a third network", "no target", "unlike terms", "no labels"],
)  # fmt: skip
def test_what_can_not_be_picked_is_refused(make, without, message):
    step = {name: value for name, value in batch().items() if name not in without}
    with pytest.raises(ValueError) as error:
        make().training_step(step, 0)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"forget_rate": 1.5}, "co_teaching: forget_rate=1.5"),
        ({"gradual_epochs": 0}, "co_teaching: gradual_epochs=0"),
        ({"exponent": 0}, "co_teaching: exponent=0"),
        ({"schedule": "sudden"}, "co_teaching: schedule='sudden'"),
    ],
    ids=lambda value: "".join(value) if isinstance(value, dict) else "",
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        pair(**options)


def test_labels_of_what_is_not_picked_are_left_out_too(monkeypatch):
    module = pair(objective=Objective({"ce": CrossEntropy(), "asl": Asymmetric()}))
    given = []
    evaluate = module.evaluate_objective
    monkeypatch.setattr(module, "evaluate_objective", lambda *told: given.append(told[2]) or evaluate(*told))
    module.training_step(batch(), 0)
    target, multi_hot = given[0]["target"], given[0]["multi_hot"]
    assert int((target == -100).sum()) > 1
    assert torch.equal((multi_hot == -100).all(dim=1), target == -100)
