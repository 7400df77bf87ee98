import lightning as L
import torch
from torch.utils.data import DataLoader

from lightning_losses import DecoupledSoftmax, Objective
from lightning_losses.data.stdlib_calls import CallsDataset
from lightning_losses.metrics import precision_at_k
from lightning_losses.modules.extreme_classifier import ExtremeClassifier
from lightning_losses.networks.hashed_text_classifier import HashedTextClassifier


def test_it_learns_the_labels_of_words_and_logs_precision():
    torch.manual_seed(0)
    words = torch.randint(1, 9, (64, 3), generator=torch.Generator().manual_seed(0))
    # A text has the labels of its words.
    rows = CallsDataset(words, torch.zeros(64, 9).scatter(1, words, 1.0).bool())
    network = HashedTextClassifier(num_classes=9, buckets=9, dim=16)
    module = ExtremeClassifier(
        network, Objective({"decoupled_softmax": DecoupledSoftmax()}), num_classes=9,
        optimizer=lambda parameters: torch.optim.Adam(parameters, 0.03),
    )  # fmt: skip
    trainer = L.Trainer(
        max_epochs=12, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, check_val_every_n_epoch=12, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(module, *(DataLoader(rows, batch_size=16, collate_fn=dict) for _ in range(2)))
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    scores = network(rows.inputs).detach()
    assert logged["val/precision_at_1"] == float(precision_at_k(scores, rows.target, 1).mean()) > 0.95
    torch.testing.assert_close(logged["val/precision_at_3"], float(precision_at_k(scores, rows.target, 3).mean()))
    assert "val/loss" in logged and "val/mean_average_precision" not in logged
