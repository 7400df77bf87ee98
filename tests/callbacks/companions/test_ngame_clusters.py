import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
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


def fit(folder, resume=None, **options):
    module, callback = Embeds(), NGAMEClusters(**options)
    sampler = NGAMESampler(24, 4, curriculum=[1, 3], refresh_interval=9)
    kept = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=15, save_top_k=-1)
    trainer = L.Trainer(
        max_epochs=4, accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[callback, *([] if resume else [kept])],
        enable_checkpointing=not resume,
    )  # fmt: skip
    loader = ResumableLoader(SamplesInMemory(INPUTS, torch.zeros(24)), 4, sampler, collate_fn=dict)
    trainer.fit(module, loader, ckpt_path=resume)
    return module, sampler, callback


def test_it_embeds_when_clusters_double_and_a_resumed_run_has_the_same_batches(tmp_path):
    module, sampler, callback = fit(tmp_path)
    assert len(module.batches) == 24 and callback.state_dict()["_clustered_at"] == sampler.clustered_at == 3
    assert sampler.clusters.bincount().tolist() == [4] * 6
    # Whole clusters of four are the batches of the last epoch.
    assert all(len(set(sampler.clusters[batch].tolist())) == 1 for epoch, batch in module.batches if epoch == 3)
    resumed, _, _ = fit(tmp_path, resume=tmp_path / "step=15.ckpt")
    assert resumed.batches == module.batches[15:]


def test_batches_without_what_is_embedded_are_refused(tmp_path):
    with pytest.raises(ValueError) as error:
        fit(tmp_path, inputs="query")
    assert str(error.value) == (
        "NGAMEClusters: a batch of 'inputs', 'target', 'index' came, and inputs='query' is not in it; name what the "
        "module embeds."
    )
