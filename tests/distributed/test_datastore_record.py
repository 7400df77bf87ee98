"""All processes get the keys of all."""

import lightning as L
import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import DataLoader

from lightning_losses import CrossEntropy, LanguageModel, Objective
from lightning_losses.callbacks.records.datastore_record import DatastoreRecord
from lightning_losses.decoding import Datastore, record_datastore
from lightning_losses.networks.transformer import Transformer
from tests.distributed.processes import run_on_processes

pytestmark = pytest.mark.distributed


def compare(folder):
    torch.manual_seed(0)
    network = Transformer(11, context_length=8, width=8, depth=1, heads=2)
    tokens = torch.randint(11, (6, 9), generator=torch.Generator().manual_seed(1))
    record = DatastoreRecord(path=folder / "store.safetensors")
    trainer = L.Trainer(
        accelerator="cpu", devices=2, strategy=DDPStrategy(process_group_backend="gloo"), logger=False,
        enable_progress_bar=False, enable_checkpointing=False, enable_model_summary=False, callbacks=[record],
        use_distributed_sampler=False, default_root_dir=folder,
    )  # fmt: skip
    # Uneven shares.
    rows = (slice(0, 4), slice(4, 6))[trainer.global_rank]
    batch = {"inputs": tokens[rows, :-1], "target": tokens[rows, 1:]}
    trainer.validate(
        LanguageModel(network, Objective({"ce": CrossEntropy()})), DataLoader([batch], batch_size=None), verbose=False
    )
    expected = record_datastore(network, [(tokens[:, :-1], tokens[:, 1:])])
    torch.testing.assert_close(record.datastore.keys, expected.keys)
    assert (record.datastore.values == expected.values).all()
    torch.distributed.barrier()
    torch.testing.assert_close(Datastore.load(folder / "store.safetensors").keys, expected.keys)


def test_all_processes_get_the_whole_datastore(tmp_path):
    run_on_processes(compare, 2, tmp_path)
