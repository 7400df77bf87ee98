"""Ready modules that learn without labels."""

import math

import lightning as L
import pytest
import torch
from torch import nn

from lightning_losses import BarlowTwins, DINOLoss, NegativeCosine, NTXent, Objective
from lightning_losses.data.random_views import RandomSignal
from lightning_losses.modules.self_supervised_learner import MovingTargetLearner, SelfSupervisedLearner
from lightning_losses.networks.conv1d import Conv1D
from lightning_losses.networks.projected_encoder import ProjectedEncoder, without_head

INPUTS = torch.randn(8, 1, 12, generator=torch.Generator().manual_seed(0))
BATCHES = [{"inputs": INPUTS[:4], "index": torch.arange(4)}, {"inputs": INPUTS[4:], "index": torch.arange(4, 8)}]


def learner(kind, loss, **options):
    torch.manual_seed(0)
    network = ProjectedEncoder(Conv1D(num_classes=3, width=2, length=12), widths=[6, 4])
    return kind(network, objective=Objective({"loss": loss}), augmentation=RandomSignal(shift=2), **options)


def fit(module, folder):
    trainer = L.Trainer(
        default_root_dir=folder, accelerator="cpu", max_epochs=2, logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, num_sanity_val_steps=0,
    )  # fmt: skip
    loader = torch.utils.data.DataLoader(BATCHES, batch_size=None)
    trainer.fit(module, loader, loader)
    return trainer


def test_it_trains_what_the_objective_takes_and_validates_on_fixed_views(tmp_path):
    module = learner(SelfSupervisedLearner, NegativeCosine())
    before = {name: parameter.clone() for name, parameter in module.named_parameters()}
    metrics = fit(module, tmp_path).callback_metrics
    assert -1 <= metrics["val/loss"] <= 1 and "train/loss" in metrics
    assert any("predictor" in name for name in before)
    assert all(bool((parameter != before[name]).any()) for name, parameter in module.named_parameters())
    module.eval()
    # Without a trainer's epoch, as in validation.
    assert torch.equal(module.validation_step(BATCHES[0], 0)["inputs"], module.validation_step(BATCHES[0], 0)["inputs"])
    assert torch.equal(module.predict_step(BATCHES[0], 0), module.network.features(INPUTS[:4]))
    assert not hasattr(learner(SelfSupervisedLearner, BarlowTwins()), "predictor")


@pytest.mark.parametrize(
    ("loss", "size", "told"),
    [
        (NTXent(), -1, "queue_size=-1 came; give a whole number of at least 1, or 0 for none."),
        (NTXent(), 2.0, "queue_size=2.0 came; give a whole number of at least 1, or 0 for none."),
        (
            BarlowTwins(),
            6,
            "a queue came with an objective none of whose terms takes 'queue'; give a loss that does, as nt_xent, or "
            "keep no queue.",
        ),
    ],
    ids=["negative", "no whole number", "for nothing"],
)
def test_a_queue_that_is_none_or_that_nothing_takes_is_refused(loss, size, told):
    with pytest.raises(ValueError) as error:
        learner(SelfSupervisedLearner, loss, queue_size=size)
    assert str(error.value) == f"SelfSupervisedLearner: {told}"
    assert learner(SelfSupervisedLearner, NTXent(), queue_size=6).past_embeddings.shape == (6, 4)


def test_the_targets_decay_rises_to_1_and_the_centre_moves(tmp_path):
    loss = DINOLoss(4)
    module, decays = learner(MovingTargetLearner, loss, decay=0.5), []
    update = module.update_ema_teacher

    def watched():
        update()
        decays.append(module.ema_decay)

    module.update_ema_teacher = watched
    fit(module, tmp_path)
    expected = [1 - 0.5 * (1 + math.cos(math.pi * step / 4)) / 2 for step in range(1, 5)]
    assert decays == pytest.approx(expected)
    assert bool(loss.centre.any())
    assert not any(name.startswith("predictor") for name, _ in module.teacher.named_parameters())


def test_a_network_without_a_known_head_is_refused():
    with pytest.raises(ValueError) as caught:
        without_head(nn.Sequential(nn.Linear(2, 2)))
    assert str(caught.value) == (
        "without_head: a Sequential came, whose head is a NoneType; give a network with a linear layer as `head`, or "
        "one of timm's."
    )
    with pytest.raises(ValueError) as caught:
        ProjectedEncoder(Conv1D(), widths=[])
    assert str(caught.value) == "projected_encoder: no widths came; give at least that of the embeddings."


@pytest.mark.parametrize(("norm", "layers"), [("batch", nn.BatchNorm1d), ("layer", nn.LayerNorm), ("none", nn.ReLU)])
def test_the_projector_has_the_norm_that_it_is_given(norm, layers):
    network = ProjectedEncoder(Conv1D(width=2, length=12), widths=[6, 4], norm=norm)
    kinds = [type(layer) for layer in network.projector]
    assert kinds == [nn.Linear, *([] if norm == "none" else [layers]), nn.ReLU, nn.Linear]
    assert network(INPUTS).shape == (8, 4) and network.features(INPUTS).shape == (8, network.num_features)
