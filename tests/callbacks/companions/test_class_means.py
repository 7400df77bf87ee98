import lightning as L
import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.utils.data import DataLoader

from lightning_losses import CrossEntropy, NDLoss, Objective
from lightning_losses.callbacks.companions.class_means import ClassMeans
from lightning_losses.data.image_data import ImageDataset
from lightning_losses.modules import Classifier, Distiller

INPUTS = torch.randn(11, 1, 2, 2, generator=torch.Generator().manual_seed(0))
TARGET = torch.tensor([0, 1, 2, 1, 0, 1, 2, 1, 0, 1, 0])
pytestmark = [
    pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
]


def network(width):
    return nn.Sequential(nn.Flatten(), nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 3))


def module(loss, width=2):
    torch.manual_seed(0)
    return Distiller(
        network(5),
        teacher_layer="2",
        network=network(width),
        feature_layer="2",
        objective=Objective({"ce": CrossEntropy(), "nd": loss}),
        num_classes=3,
        optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
        example_inputs=INPUTS[:2],
    )


class Saved(L.Callback):
    """Keeps the means outside the process that made them."""

    def __init__(self, path):
        self.path = path

    def on_train_end(self, trainer, pl_module):
        if trainer.global_rank == 0:
            torch.save(pl_module.objective.terms["nd"].loss.class_means, self.path)


def fit(student, *callbacks, batches=None, **options):
    loader = DataLoader(
        ImageDataset(INPUTS, TARGET), batch_size=batches or 3, shuffle=True, drop_last=True, collate_fn=dict
    )
    trainer = L.Trainer(
        max_steps=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[ClassMeans(batch_size=4), *callbacks],
        limit_val_batches=0,
        **options,
    )
    trainer.fit(student, loader)
    return trainer


def expected(student):
    features = student.teacher[:3](INPUTS)
    return torch.stack([features[c == TARGET].mean(dim=0) for c in range(3)])


@pytest.mark.parametrize("soft", [False, True], ids=["indices", "probabilities"])
def test_a_sample_without_a_target_counts_for_nothing(monkeypatch, soft):
    loss, labels = NDLoss(num_classes=3, dropout=0.0), TARGET.clone()
    labels[[3, 4]] = 255
    student = module(loss)
    student.objective = Objective({"ce": CrossEntropy(ignore_index=255), "nd": loss})
    features = student.teacher[:3](INPUTS)
    wanted = torch.stack([features[c == labels].mean(dim=0) for c in range(3)])
    given = labels
    if soft:
        given = nn.functional.one_hot(labels.clamp(max=2), 3).float() * (labels < 3).unsqueeze(1)
    monkeypatch.setitem(globals(), "TARGET", given)
    student.training_step = lambda batch, batch_idx: sum(weight.sum() for weight in student.network.parameters())
    fit(student)
    torch.testing.assert_close(loss.class_means, wanted, rtol=1e-6, atol=1e-7)


def test_every_sample_counts_once_and_the_projector_trains():
    loss = NDLoss(num_classes=3, dropout=0.0)
    student = module(loss)
    before = loss.projector.weight.detach().clone()
    fit(student)
    # Sums in float64, rounded to float32 at the end.
    torch.testing.assert_close(loss.class_means, expected(student), rtol=1e-6, atol=1e-7)
    assert not torch.equal(loss.projector.weight, before)
    assert "objective.terms.nd.loss.class_means" in student.state_dict()


@pytest.mark.distributed
def test_two_processes_find_the_same_means(tmp_path):
    student = module(NDLoss(num_classes=3))
    strategy = DDPStrategy(start_method="fork", process_group_backend="gloo")
    fit(student, Saved(tmp_path / "means.pt"), devices=2, strategy=strategy)
    means = torch.load(tmp_path / "means.pt", weights_only=True)
    torch.testing.assert_close(means, expected(student), rtol=1e-6, atol=1e-7)


def test_a_module_without_the_loss_is_left_alone():
    assert fit(module(CrossEntropy())).global_step == 1


def test_a_module_without_a_teacher_is_refused():
    class Alone(Classifier):
        def training_step(self, batch, batch_idx):
            return self.apply_objective(
                logits=self(batch["inputs"]), teacher_features=self.tapped_features().detach(), **batch
            )

    loss = NDLoss(num_classes=3)
    loss(torch.zeros(2, 2), torch.zeros(2, 2), TARGET[:2])
    objective = Objective({"nd": loss})
    with pytest.raises(ValueError, match="^ClassMeans: Alone has an NDLoss but no teacher"):
        fit(Alone(network(2), objective, num_classes=3, feature_layer="2"))


def test_a_class_without_samples_is_refused():
    student = module(NDLoss(num_classes=4))
    with pytest.raises(ValueError, match=r"^nd_loss: the classes \[3\] have a mean of 0"):
        fit(student)


def test_a_batch_size_below_one_is_refused():
    with pytest.raises(ValueError, match="^ClassMeans: batch_size=0"):
        ClassMeans(batch_size=0)
