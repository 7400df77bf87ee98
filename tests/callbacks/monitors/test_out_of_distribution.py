"""What the callback logs is what the scores and the measures say by themselves, on one process and on two."""

import copy

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.utils.data import DataLoader, SubsetRandomSampler, TensorDataset

from lightning_losses.callbacks import OutOfDistribution
from lightning_losses.data import GaussianNoise
from lightning_losses.metrics import out_of_distribution_detection
from lightning_losses.out_of_distribution import KNN, ODIN, Energy, MahalanobisDetector, ReAct, fit_scores, scores_of
from lightning_losses.parallel.fsdp2 import FSDP2Strategy
from tests.distributed.processes import run_on_processes

RANDOM = torch.Generator().manual_seed(0)
TARGET = torch.arange(33) % 3
TRAIN = TensorDataset(torch.randn(33, 5, generator=RANDOM) + TARGET[:, None], TARGET)
# Of odd lengths, which two processes can't share evenly.
VAL = TensorDataset(torch.randn(21, 5, generator=RANDOM) + TARGET[:21, None], TARGET[:21])
FOREIGN = TensorDataset(3 * torch.randn(17, 5, generator=RANDOM))


def made(detector=None):
    return {
        "energy": Energy(),
        "knn": KNN("network.1", k=3),
        "odin": ODIN(10.0, 0.05),
        "mahalanobis": detector or MahalanobisDetector(["network.0", "network.1"], epsilon=0.01),
    }


class Classifying(L.LightningModule):
    def __init__(self, lr=0.1):
        super().__init__()
        torch.manual_seed(0)
        self.lr = lr
        self.network = nn.Sequential(nn.Linear(5, 8), nn.Sequential(nn.Tanh(), nn.Dropout()), nn.Linear(8, 3))

    def forward(self, inputs):
        return self.network(inputs)

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.log("val/loss", F.cross_entropy(self(batch[0]), batch[1]), sync_dist=True)

    def test_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr)


class Data(L.LightningDataModule):
    def setup(self, stage):
        if stage == "fit":
            self.train = TRAIN

    def train_dataloader(self):
        return DataLoader(self.train, 6)

    def test_dataloader(self):
        return DataLoader(VAL, 8)


def callback(**options):
    return OutOfDistribution(made(), {"noise": GaussianNoise(input_shape=[5], rows=19), "other": FOREIGN}, **options)


def trainer(folder, *callbacks, **options):
    return L.Trainer(
        accelerator="cpu", max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder, callbacks=list(callbacks), **{"devices": 1, **options},
    )  # fmt: skip


def fit(folder, *callbacks, **options):
    module, fitter = Classifying(), trainer(folder, *callbacks, **options)
    fitter.fit(module, DataLoader(TRAIN, 6, shuffle=True), DataLoader(VAL, 8))
    return module, fitter


def by_hand(module, stage, names=("noise", "other"), known=VAL):
    scores, network = made(), module.network
    scores["knn"].layer, scores["mahalanobis"].layers = "1", ["0", "1"]
    fit_scores(list(scores.values()), network, [TRAIN[:]])
    foreign = {"noise": GaussianNoise(input_shape=[5], rows=19).drawn(), "other": FOREIGN.tensors[0]}
    inside, values = scores_of(scores, network, known[:][0]), {}
    for name in names:
        for score, outside in scores_of(scores, network, foreign[name]).items():
            rows = torch.cat([inside[score], outside])
            found = out_of_distribution_detection(rows, torch.arange(len(rows)) >= len(inside[score]))
            values |= {f"{stage}/ood/{score}/{name}/{measure}": float(v) for measure, v in found._asdict().items()}
    return values


@pytest.mark.parametrize(("limit", "known", "foreign"), [(1, 8, 256), (0.7, 16, 512)])
def test_limits_of_batches_are_heeded(limit, known, foreign, tmp_path):
    rows = 5 * torch.randn(600, 5, generator=torch.Generator().manual_seed(2))
    seen = {}
    for name, limits, loader, other in (
        ("limited", {"limit_val_batches": limit}, VAL, rows),
        ("cut", {}, TensorDataset(*VAL[:known]), rows[:foreign]),
    ):
        watching = OutOfDistribution({"energy": Energy()}, {"far": TensorDataset(other)})
        trainer(tmp_path, watching, **limits).validate(Classifying(), DataLoader(loader, 8), verbose=False)
        seen[name] = watching.latest
    assert seen["limited"] == pytest.approx(seen["cut"]) and len(seen["cut"]) == 5


def test_validation_and_test_log_the_measures_and_change_nothing(tmp_path):
    watching = callback()
    L.seed_everything(1, verbose=False)
    module, fitter = fit(tmp_path, watching)
    wanted = by_hand(module, "val")
    assert len(wanted) == 4 * 2 * 5
    logged = {name: float(value) for name, value in fitter.callback_metrics.items() if "/ood/" in name}
    assert logged == pytest.approx(wanted, abs=1e-6) and watching.latest == pytest.approx(wanted)
    state = copy.deepcopy(module.state_dict())
    L.seed_everything(1, verbose=False)
    plain, _ = fit(tmp_path)
    assert all(torch.equal(tensor, plain.state_dict()[name]) for name, tensor in state.items())
    # The training data are those of the fit, or the data module's.
    fitter.test(module, DataLoader(VAL, 8), verbose=False)
    assert watching.latest == pytest.approx(by_hand(module, "test"))
    other = callback()
    trainer(tmp_path, other).test(module, Data(), verbose=False)
    assert other.latest == pytest.approx(by_hand(module, "test"))


def test_training_data_of_its_own_subsets_and_another_loader(tmp_path):
    whole = TensorDataset(*(torch.cat(pair) for pair in zip(VAL[:], TRAIN[:], strict=True)))
    watching = callback(train=TRAIN, dataloader_idx=1)
    module = Classifying()
    subset = DataLoader(whole, 4, sampler=SubsetRandomSampler(range(21)))
    trainer(tmp_path, watching).validate(module, [DataLoader(TRAIN, 8), subset], verbose=False)
    assert watching.latest == pytest.approx(by_hand(module, "val"))


def test_half_precision_says_nearly_the_same(tmp_path):
    latest = []
    for precision in ("64-true", "bf16-true"):
        watching = OutOfDistribution({**made(), "react": ReAct("network.1")}, {"other": FOREIGN}, train=TRAIN)
        trainer(tmp_path, watching, precision=precision).validate(Classifying(), DataLoader(VAL, 8), verbose=False)
        latest.append({name: value for name, value in watching.latest.items() if name.endswith("auroc")})
    assert latest[1] == pytest.approx(latest[0], abs=0.03) and len(latest[0]) == 5


def test_epochs_between_are_left_out(tmp_path):
    measured = []

    class Counting(OutOfDistribution):
        def _measure(self, trainer, *rest):
            measured.append(trainer.current_epoch)

    fit(tmp_path, Counting(made(), {"other": FOREIGN}, every_n_epochs=2))
    assert measured == [1]


def on_two(folder, strategy):
    def run():
        kind = DDPStrategy if strategy == "ddp" else FSDP2Strategy
        options = {"start_method": "popen"} if strategy == "ddp" else {"min_parameters": 1}
        watching = callback(train=TRAIN)
        fitter = trainer(folder, watching, devices=2, strategy=kind(process_group_backend="gloo", **options))
        fitter.fit(Classifying(lr=0.0), DataLoader(TRAIN, 3), DataLoader(VAL, 4))
        torch.save(watching.latest, folder / f"{fitter.global_rank}.pt")

    run_on_processes(run, 2)


@pytest.mark.distributed
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes_log_what_one_does(tmp_path, strategy):
    on_two(tmp_path, strategy)
    wanted = by_hand(Classifying(), "val")
    for rank in (0, 1):
        assert torch.load(tmp_path / f"{rank}.pt") == pytest.approx(wanted, abs=1e-6)


def test_a_detector_is_tuned_on_held_out_data(tmp_path):
    detector = MahalanobisDetector(["network.0", "network.1"], combination="logistic")
    with pytest.raises(ValueError, match="mahalanobis needs tuning; give held_out"):
        fit(tmp_path, OutOfDistribution(made(detector), {"other": FOREIGN}))
    watching = OutOfDistribution(made(detector), {"other": FOREIGN}, held_out=(VAL, FOREIGN))
    fit(tmp_path, watching)
    assert detector.regression is not None and watching.latest["val/ood/mahalanobis/other/auroc"] > 0.7


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scores": {}}, "0 scores and 1 foreign sets came"),
        ({"scores": [Energy()]}, "scores came as a list; give a mapping, by name"),
        ({"scores": {"energy": Energy}}, "scores.energy is a type; give a score"),
        ({"held_out": VAL}, "held_out came as a TensorDataset; give a pair"),
        ({"train": Data()}, "train came as a data module; give its training loader"),
        ({"train": {"one": TRAIN, "two": TRAIN}}, "several loaders came at once, one, two; give one"),
        ({"scores": {"knn": KNN("body")}}, r"knn reads \['body'\], which the module lacks; its layers are network,"),
        ({"dataloader_idx": 2}, "dataloader_idx=2 came; the val data have 1 loaders"),
        ({}, "scores are to be fitted, and there are no training data; give train"),
    ],
    ids=["none", "list", "class", "no pair", "module", "loaders", "layer", "loader", "train"],
)
def test_what_can_not_be_measured_is_refused(tmp_path, options, words):
    with pytest.raises(ValueError, match=words):
        watching = OutOfDistribution(**{"scores": made(), "foreign": {"other": FOREIGN}, **options})
        trainer(tmp_path, watching).validate(Classifying(), DataLoader(VAL, 8), verbose=False)
