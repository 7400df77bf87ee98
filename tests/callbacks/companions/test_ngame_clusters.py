import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy
from torch import nn

from lightning_losses.callbacks import NGAMEClusters
from lightning_losses.data.loading import SamplesInMemory
from lightning_losses.data.resumable import ResumableLoader
from lightning_losses.samplers import NGAMESampler

INPUTS = torch.randn(24, 4, generator=torch.Generator().manual_seed(0))
pytestmark = [
    pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers"),
    # The run that goes on writes no checkpoints.
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
]


class Embeds(L.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Linear(4, 3)
        self.batches = []

    def forward(self, inputs):
        assert not self.training or torch.is_grad_enabled()
        return self.network(inputs)

    def training_step(self, batch, batch_idx):
        self.batches.append((self.current_epoch, batch["index"].tolist()))
        return self(batch["inputs"]).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.5)


def fit(folder, callbacks, resume=None, processes=1):
    module, options = Embeds(), {}
    if processes > 1:
        options["strategy"] = DDPStrategy(start_method="fork", process_group_backend="gloo")
    trainer = L.Trainer(
        max_epochs=4, accelerator="cpu", devices=processes, logger=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=callbacks, default_root_dir=folder,
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks), **options,
    )  # fmt: skip
    data = Planned()
    trainer.fit(module, data, ckpt_path=resume)
    return module, getattr(data, "sampler", None)


class Planned(L.LightningDataModule):
    def train_dataloader(self):
        world, rank = self.trainer.world_size, self.trainer.global_rank
        self.sampler = NGAMESampler(24, 4, world, rank, curriculum=[1, 3], refresh_interval=9)
        samples = SamplesInMemory(INPUTS, torch.zeros(24))
        return ResumableLoader(samples, 4 // world, self.sampler, collate_fn=dict)


class Keeps(L.Callback):
    """Writes each process's batches and clusters to a file."""

    def __init__(self, folder):
        self.folder = folder

    def on_train_end(self, trainer, pl_module):
        kept = {"batches": pl_module.batches, "clusters": trainer.train_dataloader.sampler.clusters}
        torch.save(kept, self.folder / f"{trainer.global_rank}.pt")


def test_it_embeds_when_clusters_double_and_a_resumed_run_has_the_same_batches(tmp_path):
    callback = NGAMEClusters()
    kept = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=15, save_top_k=-1)
    module, sampler = fit(tmp_path, [callback, kept])
    assert len(module.batches) == 24 and callback.state_dict()["_clustered_at"] == sampler.clustered_at == 3
    assert sampler.clusters.bincount().tolist() == [4] * 6
    # Whole clusters of four are the batches of the last epoch.
    assert all(len(set(sampler.clusters[batch].tolist())) == 1 for epoch, batch in module.batches if epoch == 3)
    resumed, _ = fit(tmp_path, [NGAMEClusters()], resume=tmp_path / "step=15.ckpt")
    assert resumed.batches == module.batches[15:]


@pytest.mark.distributed
def test_two_processes_have_the_clusters_and_the_batches_of_one(tmp_path):
    one, sampler = fit(tmp_path, [NGAMEClusters()])
    fit(tmp_path, [NGAMEClusters(), Keeps(tmp_path)], processes=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert torch.equal(first["clusters"], second["clusters"]) and torch.equal(first["clusters"], sampler.clusters)
    joined = [
        (epoch, own + others)
        for (epoch, own), (_, others) in zip(first["batches"], second["batches"], strict=True)
    ]  # fmt: skip
    assert joined == one.batches


def test_batches_without_what_is_embedded_are_refused(tmp_path):
    with pytest.raises(ValueError) as error:
        fit(tmp_path, [NGAMEClusters(inputs="query")])
    assert str(error.value) == (
        "NGAMEClusters: a batch of 'inputs', 'target', 'index' came, and inputs='query' is not in it; name what the "
        "module embeds."
    )


def test_no_epoch_of_the_curriculum_is_trained_without_the_callback(tmp_path):
    with pytest.raises(ValueError, match="^ngame_sampler: epoch 1 is of the curriculum .*add the callback NGAMECl"):
        fit(tmp_path, [])
