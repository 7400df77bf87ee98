import lightning as L
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score
from torch import nn
from torch.utils.data import DataLoader

from lightning_losses import Asymmetric, Objective
from lightning_losses.callbacks.companions.class_counts import ClassCounts
from lightning_losses.data.yeast import LabelledSamples
from lightning_losses.losses import MultiGrainedFocal
from lightning_losses.modules.multi_label_classifier import MultiLabelClassifier, label_scores

GENERATOR = torch.Generator().manual_seed(0)
INPUTS = torch.randn(64, 4, generator=GENERATOR)
LABELS = (INPUTS @ torch.randn(4, 3, generator=GENERATOR) > 0.5).float()


def test_the_scores_are_those_of_scikit_learn_over_the_known_labels():
    logits = torch.randn(64, 3, generator=GENERATOR)
    labels = LABELS.clone()
    labels[torch.rand(64, 3, generator=GENERATOR) < 0.2] = 255
    known = labels != 255
    scores = label_scores(logits, labels, 255)
    precision = [average_precision_score(labels[k, c], logits[k, c]) for c, k in enumerate(known.T)]
    macro = [f1_score(labels[k, c], logits[k, c] > 0) for c, k in enumerate(known.T)]
    assert scores["mean_average_precision"] == pytest.approx(sum(precision) / 3, rel=1e-5)
    assert scores["macro_f1"] == pytest.approx(sum(macro) / 3, rel=1e-5)
    assert scores["micro_f1"] == pytest.approx(f1_score(labels[known], logits[known] > 0), rel=1e-5)


def test_it_trains_validates_and_logs():
    torch.manual_seed(0)
    loss = MultiGrainedFocal()
    module = MultiLabelClassifier(
        nn.Linear(4, 3), Objective({"focal": loss}), num_classes=3,
        optimizer=lambda parameters: torch.optim.Adam(parameters, 0.1),
    )  # fmt: skip
    rows = LabelledSamples(INPUTS, LABELS)
    loader = DataLoader(rows, batch_size=16, collate_fn=dict)
    trainer = L.Trainer(
        max_epochs=8, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, callbacks=[ClassCounts()],
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, loader, DataLoader(rows, batch_size=64, collate_fn=dict))
    assert torch.equal(loss.prior.counts, LABELS.sum(dim=0))
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    scores = label_scores(module(INPUTS).detach(), LABELS)
    assert scores["mean_average_precision"] > 0.9
    assert {name: pytest.approx(value, rel=1e-5) for name, value in scores.items()} == {
        name: logged[f"val/{name}"] for name in scores
    }
    assert "val/loss" in logged


def test_labels_come_under_other_names_too():
    module = MultiLabelClassifier(nn.Linear(4, 3), Objective({"asymmetric": Asymmetric()}), num_classes=3)
    value = module.training_step({"inputs": INPUTS, "multi_hot": LABELS}, 0)["loss"]
    assert torch.equal(module.training_step((INPUTS, LABELS), 0)["loss"], value)
    assert torch.equal(module.training_step({"inputs": INPUTS, "target": LABELS.bool()}, 0)["loss"], value)
    with pytest.raises(ValueError) as error:
        module.training_step((INPUTS, LABELS.argmax(dim=-1)), 0)
    told = "a batch of 'inputs', 'target' came; give 'multi_hot' [B, C], which of C labels each sample has."
    assert str(error.value) == f"MultiLabelClassifier: {told}"
