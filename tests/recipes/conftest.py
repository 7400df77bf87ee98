"""Runs of the train recipe in this process, short ones, on digits."""

import warnings
from pathlib import Path

import lightning as L
import pytest
import torch
from hydra import compose, initialize_config_module
from lightning.pytorch.callbacks import Callback
from matplotlib.figure import Figure

from lightning_losses.experiments.config.check_config import check_config
from lightning_losses.experiments.config.settings import TrainSettings
from lightning_losses.experiments.launch import experiment_of

ROOT = Path(__file__).parents[2]
SHORT = [
    "data=digits",
    "trainer.max_epochs=2",
    "trainer.limit_train_batches=3",
    "trainer.enable_progress_bar=false",
    "model.width=4",
    "teacher.width=8",
]

# The first picture of each name.
DRAWN = {}


def composed(*overrides):
    with initialize_config_module("lightning_losses.conf", version_base="1.3"):
        config = compose("train", list(overrides))
    check_config(config, TrainSettings)
    return config


def rehearse(config):
    experiment_of(config).rehearse()


def train(config, folder):
    return experiment_of(config).run(folder)


@pytest.fixture(autouse=True)
def drawn_once(monkeypatch):
    """Drawing is most of so short a run: later pictures of a name are copies of the first."""
    draw = Figure.savefig

    def savefig(figure, path, **options):
        name = Path(path).name
        if name not in DRAWN:
            draw(figure, path, **options)
            DRAWN[name] = Path(path).read_bytes()
        Path(path).write_bytes(DRAWN[name])

    monkeypatch.setattr(Figure, "savefig", savefig)


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def run(tmp_path, cache):
    """Train with overrides; the report, whose files are in the folder `run.folder`."""

    def run(*overrides, folder: Path = tmp_path / "run", short=SHORT):
        run.folder = folder
        with warnings.catch_warnings():
            # A network of three steps may be so unsure that its best temperature lies at the range's end.
            warnings.filterwarnings("ignore", message="TemperatureScaling: the best temperature lies outside")
            return train(composed(*short, f"cache={cache}", *overrides), folder)

    return run


class _CtrlC(Callback):
    """Interrupts before the given optimizer step of the student."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            raise KeyboardInterrupt


@pytest.fixture
def interrupt(monkeypatch):
    """Let the next training of student or teacher be interrupted before a step; 3 steps are an epoch."""

    def interrupt(step, teacher=False):
        fit = L.Trainer.fit

        def interrupted(self, module, *args, **kwargs):
            if teacher or getattr(module, "teacher", None) is not None:
                self.callbacks.append(_CtrlC(step))
                monkeypatch.setattr(L.Trainer, "fit", fit)
            return fit(self, module, *args, **kwargs)

        monkeypatch.setattr(L.Trainer, "fit", interrupted)

    return interrupt


def student_weights(folder):
    """What the student's last checkpoint holds."""
    return torch.load(folder / "checkpoints" / "student" / "last.ckpt", weights_only=True)


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory):
    """A folder of a tiny untrained sentence model, as transformers writes them."""
    from transformers import BertConfig, BertModel, BertTokenizer

    folder = tmp_path_factory.mktemp("encoder")
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *"abcdefghijklmnopqrstuvwxyz",
        *map("##{}".format, "abcdefgh"),
    ]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=len(words), **sizes)).save_pretrained(folder)
    return folder
