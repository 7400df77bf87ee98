"""A disk that is full, wherever something is written: an error that names the file, nothing half, and it goes on."""

import errno
import resource
from contextlib import contextmanager

import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

from lightning_losses.calibrators import TemperatureScaling
from lightning_losses.callbacks.records.metrics_file import append_metrics, finish_metrics
from lightning_losses.checkpoints.atomic_checkpoints import AtomicCheckpoints
from lightning_losses.data.image_data import ImageDataset
from lightning_losses.diagnostics.numerics import save_batch
from lightning_losses.environment.atomic_files import write_all, write_text
from lightning_losses.experiments.evidence.kept_results import KeptResults
from lightning_losses.experiments.sweeps.trials import Journal
from lightning_losses.experiments.training.kept_networks import KeptNetworks
from lightning_losses.plots.style import save_figure
from lightning_losses.teachers import CachedLogits
from lightning_losses.teachers.cache_teacher import cache_teacher

DATA = ImageDataset(torch.randn(20, 1, 2, 2, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 6)
LONG = "a line that is longer than the room that is left on the disk, whatever else may be there already"
NETWORK = nn.Sequential(nn.Flatten(), nn.Linear(4, 6))


def calibrator():
    return TemperatureScaling().fit(
        torch.randn(30, 3, generator=torch.Generator().manual_seed(0)), torch.arange(30) % 3
    )


def journal(folder):
    with Journal(folder, {}) as trials:
        trials.begin(0, {"lr": LONG}, {})


WRITERS = {
    "a text": lambda folder: write_text(folder / "file", LONG),
    "a line": lambda folder: append_metrics(folder / "metrics.jsonl", {LONG: 0.0}),
    "the last line": lambda folder: finish_metrics(folder / "metrics.jsonl", {LONG: 0.0}),
    "a picture": lambda folder: save_figure(Figure(), folder / "picture.png"),
    "a checkpoint": lambda folder: AtomicCheckpoints().save_checkpoint(NETWORK.state_dict(), folder / "last.ckpt"),
    "a calibrator": lambda folder: calibrator().save(folder / "calibrator.safetensors"),
    "a batch": lambda folder: save_batch(
        folder / "b.safetensors", NETWORK, {"x": torch.zeros(2)}, 0, torch.zeros(9), {}
    ),
    "logits": lambda folder: CachedLogits(torch.zeros(20, 6)).save(folder / "logits.safetensors"),
    "a kept network": lambda folder: KeptNetworks(folder).save({"seed": 0}, NETWORK, {}),
    "a kept result": lambda folder: KeptResults(folder).save({"seed": 0}, "source", {"accuracy": 0.5}),
    "a cached teacher": lambda folder: cache_teacher(NETWORK, DATA, folder),
    "a sweep": journal,
    "a new method": lambda folder: write_all({folder / "a": "short", folder / "b": LONG}),
}


@contextmanager
def full_disk():
    """Of all that the system refuses to write, this is what a test may ask for: no file grows beyond 64 bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def contents(folder):
    # The lock of a sweep is no content.
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


@pytest.mark.parametrize("what", WRITERS)
def test_it_leaves_what_was_there_and_goes_on_when_there_is_space(tmp_path, what):
    write, folder = WRITERS[what], tmp_path / "folder"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text('{"loss": 1.0}\n')
    before = contents(folder)
    with full_disk(), pytest.raises(OSError, match="File too large") as refused:
        write(folder)
    assert refused.value.errno == errno.EFBIG and str(refused.value.filename).startswith(str(folder))
    assert contents(folder) == before
    write(folder)
    assert len(contents(folder)) > len(before) or contents(folder) != before
