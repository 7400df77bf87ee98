import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_losses import CrossEntropy, Objective
from lightning_losses.calibrators import Calibrator, LogitAdjuster
from lightning_losses.callbacks import ClassCounts, PostHocCalibration
from lightning_losses.modules import Classifier

COUNTS = [90, 9, 0]


def test_it_undoes_the_classes_shares(tmp_path):
    """Of a posterior it makes the likelihoods, up to a factor: the best balanced prediction."""
    density = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3]]).t()
    posterior = density * torch.tensor([0.9, 0.1])
    adjuster = LogitAdjuster(class_counts=[900, 100])
    adjusted = adjuster(posterior.log())
    torch.testing.assert_close(adjusted.softmax(-1), density / density.sum(dim=-1, keepdim=True))
    assert posterior.argmax(-1).tolist() == [0, 0, 0] and adjusted.argmax(-1).tolist() == [0, 1, 1]
    assert torch.equal(LogitAdjuster(tau=0.0, class_counts=[9, 1])(posterior), posterior)
    adjuster.save(tmp_path / "adjuster.safetensors")
    loaded = Calibrator.load(tmp_path / "adjuster.safetensors")
    assert loaded.options == {"tau": 1.0, "class_counts": [900, 100], "smoothing": "clamp", "ignore_index": -100}
    assert torch.equal(loaded(posterior), adjuster(posterior))


def test_an_absent_class_has_a_finite_offset():
    shares = [(-LogitAdjuster(class_counts=COUNTS, smoothing=how).offset).exp() for how in ("clamp", "add_one")]
    torch.testing.assert_close(shares, [torch.tensor([90.0, 9, 1]) / 100, torch.tensor([91.0, 10, 1]) / 102])


@pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers")
def test_callbacks_count_for_it_and_write_it(tmp_path):
    data = TensorDataset(torch.zeros(4, 2), torch.tensor([0, 0, 0, 1]))
    calibration = PostHocCalibration(LogitAdjuster, folder=tmp_path)
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, max_epochs=1,
        enable_model_summary=False, num_sanity_val_steps=0, callbacks=[ClassCounts(num_classes=2), calibration],
    )  # fmt: skip
    module = Classifier(nn.Linear(2, 2), Objective({"ce": CrossEntropy()}), num_classes=2)
    trainer.fit(module, DataLoader(data, 2), DataLoader(data, 2))
    assert Calibrator.load(calibration.path).class_counts == [3, 1]


@pytest.mark.parametrize(
    ("attempt", "told"),
    [
        (lambda z, y: LogitAdjuster().fit(z, y),
         "it is fitted to the counts of the training set, and has none; give class_counts=[...], a number for each "
         "class, or the trainer the callback ClassCounts."),
        (lambda z, y: LogitAdjuster(class_counts=COUNTS).fit(z, y),
         "logits of 2 classes came with class_counts of 3; give one number for each class."),
        (lambda z, y: LogitAdjuster(class_counts=COUNTS)(z),
         "logits of shape [2, 2] came, but it was fitted on 3 classes; give [..., 3]."),
        (lambda z, y: LogitAdjuster(tau=-1.0), "tau=-1.0 came; give a number at least 0 and at most 1e+09."),
        (lambda z, y: LogitAdjuster(smoothing="none"), "smoothing='none' came; choose one of 'clamp', 'add_one'."),
    ],
    ids=["no counts", "other counts", "other logits", "tau", "smoothing"],
)  # fmt: skip
def test_what_does_not_fit_is_refused(attempt, told):
    with pytest.raises(ValueError) as raised:
        attempt(torch.zeros(2, 2), torch.tensor([0, 1]))
    assert str(raised.value) == f"LogitAdjuster: {told}"
