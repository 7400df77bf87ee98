from types import SimpleNamespace

import lightning as L
import pytest
import torch
from torch import nn

from lightning_losses.callbacks.interventions.weight_aligning import WeightAligning, align_weight


def test_mean_lengths_agree_and_old_rows_stay():
    weight = torch.randn(7, 4, dtype=torch.float64)
    aligned = align_weight(weight, 3)
    lengths = aligned.weight.norm(dim=1)
    torch.testing.assert_close(lengths[-3:].mean(), lengths[:4].mean())
    assert torch.equal(aligned.weight[:4], weight[:4])
    torch.testing.assert_close(align_weight(aligned.weight, 3).weight, aligned.weight)
    scores = torch.randn(10, 4, dtype=torch.float64)
    assert torch.equal((scores @ aligned.weight[-3:].T).argmax(1), (scores @ weight[-3:].T).argmax(1))


@pytest.mark.parametrize("weight, new", [(torch.randn(4, 2), 0), (torch.randn(4, 2), 4), (torch.zeros(4, 2), 2)])
def test_nothing_to_align_leaves_the_weight(weight, new):
    aligned = align_weight(weight, new)
    assert torch.equal(aligned.weight, weight) and aligned.gamma.item() == 1


def test_more_new_classes_than_classes_are_refused():
    with pytest.raises(ValueError, match="^weight_aligning: new_classes=5"):
        align_weight(torch.zeros(4, 2), 5)


class Module(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5))

    def training_step(self, batch, batch_idx):
        return self.network(batch[0]).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(*callbacks):
    module = Module()
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(4, 3)), batch_size=4)
    trainer = L.Trainer(
        max_steps=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=len(callbacks) > 1,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        limit_train_batches=1,
    )
    trainer.fit(module, data)
    return module


@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")
def test_the_callback_aligns_at_the_end():
    lengths = fit(WeightAligning("network.1", 2)).network[1].weight.norm(dim=1)
    torch.testing.assert_close(lengths[-2:].mean(), lengths[:3].mean())


@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")
def test_the_checkpoint_of_the_last_epoch_is_aligned_where_steps_are_counted(tmp_path):
    checkpoint = L.pytorch.callbacks.ModelCheckpoint(tmp_path)
    module = fit(checkpoint, WeightAligning("network.1", 2))
    saved = torch.load(checkpoint.best_model_path, weights_only=True)["state_dict"]
    assert torch.equal(saved["network.1.weight"], module.network[1].weight.detach())


def test_the_end_of_training_rounds_no_aligned_weight_again():
    state = {
        "max_epochs": 1,
        "current_epoch": 0,
        "global_step": 3,
        "max_steps": -1,
        "min_epochs": None,
        "min_steps": None,
    }
    callback, trainer = WeightAligning("network.1", 2), SimpleNamespace(**state, should_stop=False)
    for seed in range(20):
        torch.manual_seed(seed)
        module = Module()
        callback.on_fit_start(trainer, module)
        callback.on_train_epoch_end(trainer, module)
        aligned = module.network[1].weight.clone()
        callback.on_train_end(trainer, module)
        assert torch.equal(module.network[1].weight, aligned)


@pytest.mark.parametrize(("least", "aligned"), [({"min_epochs": 2}, False), ({"min_steps": 9}, False), ({}, True)])
def test_a_trainer_that_shall_stop_but_goes_on_is_not_at_the_end(least, aligned):
    module = Module()
    before = module.network[1].weight.clone()
    state = {"max_epochs": 5, "max_steps": -1, "current_epoch": 0, "global_step": 3, "should_stop": True}
    trainer = SimpleNamespace(**{**state, "min_epochs": None, "min_steps": None, **least})
    WeightAligning("network.1", 2).on_train_epoch_end(trainer, module)
    assert torch.equal(module.network[1].weight, before) is not aligned


@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")
def test_a_head_that_is_not_there_is_refused_before_training():
    with pytest.raises(ValueError, match=r"^weight_aligning: head='fc'.*network\.0, network\.1"):
        fit(WeightAligning("fc", 2))
