"""What modules and callbacks log on two processes with unequal rows is what they log on one with all of them."""

import lightning as L
import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.utils.data import DataLoader, Dataset, default_collate

from lightning_losses import MCMI, CrossEntropy, Objective
from lightning_losses.callbacks.calibration.calibration_monitor import CalibrationMonitor
from lightning_losses.callbacks.companions.class_centroids import ClassCentroids
from lightning_losses.callbacks.monitors.neural_collapse import NeuralCollapse
from lightning_losses.callbacks.monitors.output_logits import OutputLogits
from lightning_losses.callbacks.monitors.softmax_collapse import SoftmaxCollapse
from lightning_losses.losses.adapted import Adapted
from lightning_losses.modules import Classifier
from lightning_losses.modules.embedding_distiller import EmbeddingDistiller
from lightning_losses.modules.full_batch_learner import FullBatchLearner
from lightning_losses.modules.language_model import LanguageModel
from lightning_losses.networks.hashed_text_encoder import HashedTextEncoder
from lightning_losses.networks.transformer import Transformer
from tests.distributed.processes import run_on_processes

pytestmark = pytest.mark.distributed

CLASSES, WORDS, ROWS, BATCHES = 5, 11, 7, 3
# Each process's rows of a batch, and the rows that are ignored. The numbers of all rows are odd.
SHARES = {
    "unequal": ((slice(0, 5), slice(5, 7)), []),
    "one ignored": ((slice(0, 5), slice(5, 7)), [5, 6]),
    "one empty": ((slice(0, 7), slice(7, 7)), []),
}


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


def classifier():
    objective = Objective({"ce": CrossEntropy(), "mcmi": MCMI(CLASSES)})
    return Classifier(nn.Linear(4, CLASSES), objective, CLASSES, optimizer=sgd)


def language_model():
    network = Transformer(WORDS, context_length=8, width=8, depth=1, heads=2)
    return LanguageModel(network, Objective({"ce": CrossEntropy()}), optimizer=sgd, impl="chunked")


def full_batch():
    return FullBatchLearner(nn.Linear(4, CLASSES), Objective({"ce": CrossEntropy()}), optimizer=sgd)


def regression():
    objective = Objective({"mse": Adapted(nn.MSELoss(reduction="none"), {"input": "logits"}, reduction="mean")})
    return FullBatchLearner(nn.Linear(4, 1), objective, optimizer=sgd, measure="loss")


def pairs():
    return EmbeddingDistiller(HashedTextEncoder(buckets=WORDS, dim=4), Objective({"ce": CrossEntropy()}), optimizer=sgd)


MODULES = {
    "classifier": classifier,
    "language model": language_model,
    "full batch": full_batch,
    "regression": regression,
    "pairs": pairs,
}


class Samples(Dataset):
    def __init__(self, name, ignored):
        generator, rows = torch.Generator().manual_seed(0), torch.arange(BATCHES * ROWS)
        if name == "language model":
            inputs = torch.randint(WORDS, (len(rows), 4), generator=generator)
            target = inputs.roll(-1, dims=1)
        else:
            inputs = torch.randn(len(rows), 4, generator=generator)
            target = torch.randint(CLASSES, (len(rows),), generator=generator)
        target[torch.isin(rows % ROWS, torch.tensor(ignored))] = -100
        if name == "regression":
            target = inputs[:, :1] ** 2
        self.tensors = {"inputs": inputs, "target": target}
        if name == "pairs":
            query, document = torch.randint(WORDS, (2, len(rows), 3), generator=generator)
            self.tensors = {"query": query, "document": document, "index": rows}

    def __len__(self):
        return BATCHES * ROWS

    def __getitem__(self, row):
        return {name: tensor[row] for name, tensor in self.tensors.items()}

    def collate(self, rows):
        return default_collate(rows) if rows else {name: tensor[:0] for name, tensor in self.tensors.items()}


class Shared(L.LightningDataModule):
    def __init__(self, name, shares, ignored):
        super().__init__()
        self.samples, self.shares = Samples(name, ignored), shares

    def train_dataloader(self):
        own = slice(None) if self.trainer.world_size == 1 else self.shares[self.trainer.global_rank]
        rows = [list(range(number * ROWS, (number + 1) * ROWS))[own] for number in range(BATCHES)]
        return DataLoader(self.samples, batch_sampler=rows, collate_fn=self.samples.collate)

    val_dataloader = test_dataloader = train_dataloader


def logged(folder, name, share, processes):
    """All that is logged of a fit and a test."""
    strategy = DDPStrategy(process_group_backend="gloo") if processes > 1 else "auto"
    collapse = NeuralCollapse("network", layers=["network"])
    monitors = [OutputLogits(every_n_steps=1), SoftmaxCollapse(["float16"], every_n_steps=1), collapse]
    callbacks = [ClassCentroids(), CalibrationMonitor(), *monitors] if name == "classifier" else []
    trainer = L.Trainer(
        accelerator="cpu", devices=processes, strategy=strategy, max_epochs=1, logger=False, callbacks=callbacks,
        enable_progress_bar=False, enable_checkpointing=False, enable_model_summary=False, num_sanity_val_steps=0,
        use_distributed_sampler=False, default_root_dir=folder,
    )  # fmt: skip
    torch.manual_seed(0)
    module, data = MODULES[name](), Shared(name, *SHARES[share])
    trainer.fit(module, data)
    found = dict(trainer.callback_metrics)
    for monitor in monitors if callbacks else []:
        found |= {f"{monitor.name}/{key}": values[-1] for key, values in monitor.values.items()}
    if name == "pairs":
        # A query's rank is that among its own process's documents.
        assert 0 < float(found.pop("val/mrr")) <= 1
    elif not isinstance(module, FullBatchLearner):
        trainer.test(module, data, verbose=False)
        found |= trainer.callback_metrics
    return {key: float(value) for key, value in found.items() if not key.endswith(("per_second", "memory"))}


# Of torchmetrics, on the process that has no rows; it has the others'.
@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric:UserWarning")
def test_two_unequal_processes_log_what_one_with_all_rows_logs(tmp_path):
    cases = [(name, share) for name in MODULES for share in SHARES]

    def log():
        found = [logged(tmp_path, *case, processes=2) for case in cases]
        torch.save(found, tmp_path / f"{torch.distributed.get_rank()}.pt")

    run_on_processes(log, 2)
    both = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    for case, *found in zip(cases, *both, strict=True):
        one = logged(tmp_path, *case, processes=1)
        assert {"val/loss", "train/loss"} & one.keys()
        for two in found:
            # Weights after averaged gradients differ in their last bits.
            assert two == pytest.approx(one, rel=1e-4, abs=1e-5), case
