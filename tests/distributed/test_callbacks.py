"""Every monitor and every calibrator says on two processes, under DDP and FSDP2, what it says on one.

They are found by walking the package; one without an example here fails by name. All monitors watch one fit, and all
calibrators one pair of processes.
"""

import importlib
import pkgutil

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader, DistributedSampler, StackDataset
from torchmetrics import Metric

import lightning_losses.calibrators
import lightning_losses.callbacks
import lightning_losses.metrics
from lightning_losses import AdaFocal, Objective
from lightning_losses.attacks import FGSM, PGD
from lightning_losses.calibrators import Calibrator, ConformalSets, LogitAdjuster
from lightning_losses.calibrators.one_vs_rest import LogOddsOneVsRest, OneVsRest
from lightning_losses.callbacks.calibration.calibration_monitor import CalibrationMonitor
from lightning_losses.callbacks.calibration.post_hoc_calibration import PostHocCalibration
from lightning_losses.callbacks.companions.adafocal_bins import AdaFocalBins
from lightning_losses.callbacks.companions.class_counts import ClassCounts
from lightning_losses.callbacks.monitors.adversarial_error_scaling import AdversarialErrorScaling
from lightning_losses.callbacks.monitors.alignment_uniformity import AlignmentUniformity
from lightning_losses.callbacks.monitors.attack_monitor import AttackMonitor
from lightning_losses.callbacks.monitors.attention_entropy import AttentionEntropy
from lightning_losses.callbacks.monitors.attention_logits import AttentionLogits
from lightning_losses.callbacks.monitors.continual_evaluation import ContinualEvaluation
from lightning_losses.callbacks.monitors.diffusion_spectral_entropy import DiffusionSpectralEntropy
from lightning_losses.callbacks.monitors.embedding_evaluation import EmbeddingEvaluation
from lightning_losses.callbacks.monitors.empirical_ntk import EmpiricalNTK
from lightning_losses.callbacks.monitors.evaluation import EvaluationMonitor
from lightning_losses.callbacks.monitors.few_shot_evaluation import FewShotEvaluation
from lightning_losses.callbacks.monitors.gradient_conflict import GradientConflict
from lightning_losses.callbacks.monitors.grokking_monitor import GrokkingMonitor
from lightning_losses.callbacks.monitors.hessian_spectrum import HessianSpectrum
from lightning_losses.callbacks.monitors.information_plane import InformationPlane
from lightning_losses.callbacks.monitors.intrinsic_dimension import IntrinsicDimension
from lightning_losses.callbacks.monitors.knn_evaluation import KNNEvaluation
from lightning_losses.callbacks.monitors.learning_rate_sensitivity import LearningRateSensitivity
from lightning_losses.callbacks.monitors.linear_evaluation import LinearEvaluation
from lightning_losses.callbacks.monitors.linear_mode_connectivity import LinearModeConnectivity
from lightning_losses.callbacks.monitors.mixup_configuration import MixupConfiguration
from lightning_losses.callbacks.monitors.monitor import LogitMonitor, Monitor
from lightning_losses.callbacks.monitors.neural_collapse import NeuralCollapse
from lightning_losses.callbacks.monitors.nlm_cosine import NLMCosine
from lightning_losses.callbacks.monitors.opposing_signals import OpposingSignals
from lightning_losses.callbacks.monitors.output_logits import OutputLogits
from lightning_losses.callbacks.monitors.parameters import GradientMonitor, ParameterMonitor
from lightning_losses.callbacks.monitors.probe import LayerMonitor, ProbeMonitor
from lightning_losses.callbacks.monitors.projection_gap import ProjectionGap
from lightning_losses.callbacks.monitors.robust_accuracy import RobustAccuracy
from lightning_losses.callbacks.monitors.shot_accuracy_monitor import ShotAccuracyMonitor
from lightning_losses.callbacks.monitors.softmax_collapse import SoftmaxCollapse
from lightning_losses.callbacks.monitors.weight_norms import WeightNorms
from lightning_losses.callbacks.monitors.zero_gradients import ZeroGradients
from lightning_losses.metrics.base import MeanMetric, PredictionMetric
from lightning_losses.metrics.brier_score import BrierDecomposition
from lightning_losses.metrics.membership_inference import MembershipInference
from lightning_losses.metrics.out_of_distribution import OutOfDistributionDetection
from lightning_losses.metrics.prediction_sets import PredictionSetMetrics
from lightning_losses.metrics.ranked_labels import PrecisionAtK
from lightning_losses.metrics.subgroup_accuracy import SubgroupAccuracy
from lightning_losses.mixins import ObjectiveMixin
from lightning_losses.parallel.fsdp2 import FSDP2Strategy
from tests.callbacks.training import PerProcess, batches, whole
from tests.distributed.processes import in_group, run_on_processes
from tests.metrics.test_every_metric import METRICS, sample

pytestmark = pytest.mark.distributed

PROBE = {"every_n_steps": 2, "samples": 7}
TASKS = [(torch.randn(9, 5, generator=torch.Generator().manual_seed(t)), torch.arange(9) % 3) for t in (0, 1)]


def alike(layer):
    """The same weights on every process."""
    layer.weight.copy_(torch.linspace(-1, 1, layer.weight.numel()).sin().view_as(layer.weight))
    layer.bias.zero_()


# How each monitor is made for the network below.
MONITORS = {
    AdversarialErrorScaling: lambda: AdversarialErrorScaling(FGSM(bounds=None), epsilons=[0.05, 0.1, 0.2, 0.4]),
    AlignmentUniformity: lambda: AlignmentUniformity(every_n_steps=2),
    AttentionEntropy: lambda: AttentionEntropy(**PROBE),
    AttentionLogits: lambda: AttentionLogits(**PROBE),
    CalibrationMonitor: CalibrationMonitor,
    ContinualEvaluation: lambda: ContinualEvaluation(TASKS, lambda trainer: 0, every_n_steps=2),
    DiffusionSpectralEntropy: lambda: DiffusionSpectralEntropy(["network.body"], bandwidth=1.0, **PROBE),
    EmbeddingEvaluation: lambda: EmbeddingEvaluation("network.first"),
    EmpiricalNTK: lambda: EmpiricalNTK(**PROBE),
    FewShotEvaluation: lambda: FewShotEvaluation("network.first", ways=3, queries=3, episodes=4),
    GrokkingMonitor: lambda: GrokkingMonitor(),
    HessianSpectrum: lambda: HessianSpectrum(lanczos_steps=5, trace_probes=3, **PROBE),
    InformationPlane: lambda: InformationPlane(["network.body"], bins=4, **PROBE),
    IntrinsicDimension: lambda: IntrinsicDimension(["network.body"], **PROBE),
    KNNEvaluation: lambda: KNNEvaluation("network.first", k=5),
    LearningRateSensitivity: lambda: LearningRateSensitivity(trial_steps=2, every_n_steps=2),
    LinearEvaluation: lambda: LinearEvaluation("network.body", num_classes=3),
    LinearModeConnectivity: lambda: LinearModeConnectivity(**PROBE),
    MixupConfiguration: lambda: MixupConfiguration("network.head", **PROBE),
    NLMCosine: lambda: NLMCosine(every_n_steps=2),
    NeuralCollapse: lambda: NeuralCollapse("network.head", samples=48),
    OpposingSignals: lambda: OpposingSignals(group=2, **PROBE),
    OutputLogits: lambda: OutputLogits(every_n_steps=2),
    ProjectionGap: lambda: ProjectionGap("network.first", "network.head", num_classes=3),
    # Random starts depend on a row's place in its batch.
    RobustAccuracy: lambda: RobustAccuracy(
        {"fgsm": FGSM(epsilon=0.2, bounds=None), "pgd": PGD(epsilon=0.2, random_start="none", bounds=None)},
        surrogates={"other": nn.Linear(5, 3).requires_grad_(False).apply(alike)},
        draws=0,
    ),
    ShotAccuracyMonitor: lambda: ShotAccuracyMonitor(class_counts=[400, 50, 4]),
    SoftmaxCollapse: lambda: SoftmaxCollapse(["float16"], every_n_steps=2),
    WeightNorms: lambda: WeightNorms(every_n_steps=2),
    ZeroGradients: lambda: ZeroGradients(every_n_steps=2),
}
# It needs an objective, which no FSDP2 may shard: tests/balancing/test_training.py has it on two processes.
ELSEWHERE = {GradientConflict}
BASES = {
    *(Monitor, AttackMonitor, EvaluationMonitor, LogitMonitor, ProbeMonitor, LayerMonitor),
    *(ParameterMonitor, GradientMonitor),
}


def classes_in(package, base):
    """The subclasses of a class that the files of a package define."""
    found = set()
    for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        for value in vars(importlib.import_module(info.name)).values():
            if isinstance(value, type) and issubclass(value, base) and value.__module__ == info.name:
                found.add(value)
    return found


def monitor_classes():
    found = classes_in(lightning_losses.callbacks, Callback)
    return {kind for kind in found if issubclass(kind, Monitor) or kind.__name__.endswith("Monitor")} - BASES


def test_every_monitor_has_an_example():
    missing = {kind.__name__ for kind in monitor_classes() - MONITORS.keys() - ELSEWHERE}
    assert not missing, f"say in MONITORS of this file how {missing} is made, so that it is tried on two processes"


@pytest.mark.parametrize("kind", MONITORS, ids=lambda kind: kind.__name__)
def test_every_monitor_states_its_cost(kind):
    assert "\n    Cost: " in kind.__doc__


class Attending(nn.Module):
    """A network with attention, a layer to look into, and a linear head."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(5, 8)
        self.body = nn.Tanh()
        self.head = nn.Linear(8, 3)

    def forward(self, inputs):
        tokens = self.first(inputs).unflatten(1, (1, 2, 4))
        # The kernel that shows torch.func what it does: tangent kernels are taken by it.
        with sdpa_kernel(SDPBackend.MATH):
            attended = F.scaled_dot_product_attention(tokens, tokens, tokens)
        return self.head(self.body(tokens + attended).flatten(1))


class Watched(L.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.network = Attending()

    def forward(self, inputs):
        return self.network(inputs)

    def training_step(self, batch, batch_idx):
        logits = self(batch[0])
        views = {"embeddings": logits.detach(), "embeddings_b": logits.detach().tanh()}
        return {"loss": F.cross_entropy(logits, batch[1]), "logits": logits, "target": batch[1], **views}

    def validation_step(self, batch, batch_idx):
        logits = self(batch[0])
        hits = (logits.argmax(-1) == batch[1]).double().mean()
        self.log("val/accuracy", hits, sync_dist=True)
        return {"logits": logits, "target": batch[1]}

    def predict_step(self, batch, batch_idx):
        return {"logits": self(batch[0]), "target": batch[1]}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.5)


class Kept(Logger):
    """Everything that is logged, in memory."""

    name, version = "kept", 0

    def __init__(self):
        self.logged = {}

    def log_metrics(self, metrics, step=None):
        for name, value in metrics.items():
            self.logged.setdefault(name, []).append((step, float(value)))

    def log_hyperparams(self, params, *rest):
        pass


def trainer(folder, callbacks, strategy, shards=False, **options):
    chosen = {}
    if strategy == "ddp":
        chosen = {"devices": 2, "strategy": DDPStrategy(start_method="popen", process_group_backend="gloo")}
    elif strategy == "fsdp2":
        parallel = FSDP2Strategy(process_group_backend="gloo", min_parameters=1, save_distributed_checkpoint=shards)
        chosen = {"devices": 2, "strategy": parallel}
    return L.Trainer(
        accelerator="cpu", enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1,
        callbacks=callbacks, default_root_dir=folder,
        **{"devices": 1, "logger": False, "enable_checkpointing": False, "max_epochs": 1, **chosen, **options},
    )  # fmt: skip


def on_strategy(strategy, function):
    if strategy == "one":
        function()
    else:
        run_on_processes(function, 2)


def watch(folder, strategy):
    """Everything that all monitors log in one fit."""

    def fit():
        logger, monitors = Kept(), [make() for make in MONITORS.values()]
        fitter = trainer(
            folder, monitors, strategy, logger=logger, use_distributed_sampler=False,
            limit_val_batches=2, val_check_interval=2, num_sanity_val_steps=0,
        )  # fmt: skip
        fitter.fit(Watched(), PerProcess(batches()))
        if fitter.is_global_zero:
            torch.save(logger.logged, folder / f"{strategy}.pt")
        if strategy == "one":
            # Written to files they are where each one's own tests are.
            for monitor in monitors:
                if isinstance(monitor, Monitor):
                    assert any(axis.has_data() for axis in monitor.figure().axes), monitor.name

    on_strategy(strategy, fit)
    return torch.load(folder / f"{strategy}.pt", weights_only=True)


def test_every_monitor_logs_on_two_processes_what_it_logs_on_one(tmp_path):
    one = watch(tmp_path, "one")
    prefixes = {name.split("/")[0] for name in one}
    assert {kind.name for kind in MONITORS if issubclass(kind, Monitor)} | {"val"} <= prefixes
    for strategy in ("ddp", "fsdp2"):
        two = watch(tmp_path, strategy)
        assert two.keys() == one.keys()
        for name, values in one.items():
            assert [step for step, _ in two[name]] == [step for step, _ in values], name
            # Weights after averaged gradients differ in their last bits, and a Hessian's products amplify them.
            found, wanted = [value for _, value in two[name]], [value for _, value in values]
            assert found == pytest.approx(wanted, rel=2e-3, abs=2e-4, nan_ok=True), (strategy, name)


# ---- calibrators

# What is fitted to logits; LogitAdjuster is told the classes' counts instead.
CALIBRATORS = {
    kind.__name__: kind
    for kind in classes_in(lightning_losses.calibrators, Calibrator | ConformalSets)
    - {Calibrator, ConformalSets, OneVsRest, LogOddsOneVsRest, LogitAdjuster}
}


class Images(L.LightningDataModule):
    """Uneven numbers of small images, whose classes are as noisy as the best confidence says."""

    def loader(self, rows):
        generator = torch.Generator().manual_seed(rows)
        inputs = torch.rand(rows, 3, 4, 4, generator=generator)
        noisy = 8 * inputs.mean(dim=(2, 3)) + torch.randn(rows, 3, generator=generator)
        # It holds no targets by a known name: each process counts the classes of its share.
        dataset, world = StackDataset(inputs, noisy.argmax(-1)), self.trainer.world_size
        # Lightning would share out in another order than that of one process.
        sampler = DistributedSampler(dataset, world, self.trainer.global_rank, shuffle=False) if world > 1 else None
        return DataLoader(dataset, batch_size=16 // world, sampler=sampler)

    def train_dataloader(self):
        return self.loader(32)

    def val_dataloader(self):
        return self.loader(101)


class Overfitting(Watched):
    """Its first epoch is the best one, and what follows moves its weights far."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", float(self.current_epoch), batch_size=len(batch[0]), sync_dist=True)


def post_hoc(name, folder):
    try:
        # A class of its own: Lightning takes one callback of a class and state.
        return type(f"PostHoc{name}", (PostHocCalibration,), {})(CALIBRATORS[name], folder=folder / name)
    except TypeError as error:
        raise AssertionError(f"give {name} defaults, or say in this test how it is made ({error})") from None


def calibrate(folder, strategy):
    """Every calibrator, fitted to the best of two epochs; the weights after the second; and the classes' counts."""

    def fit():
        found = {}
        for shards in (False, True) if strategy == "fsdp2" else (False,):
            own = folder / f"{strategy}{shards}"
            callbacks = [post_hoc(name, own) for name in CALIBRATORS]
            best = ModelCheckpoint(own, filename="best", monitor="val/loss", mode="min")
            options = {"max_epochs": 2, "enable_checkpointing": True, "num_sanity_val_steps": 0}
            counter = ClassCounts()
            fitter = trainer(own, [best, counter, *callbacks], strategy, shards=shards, **options)
            module = Overfitting()
            fitter.fit(module, Images())
            assert (own / "best.ckpt").is_dir() == shards
            found[str(shards)] = {
                "classes": {"counts": counter.counts},
                "weights": {name: whole(p).detach().clone() for name, p in module.named_parameters()},
                **{name: dict(c.calibrator.state_dict()) for name, c in zip(CALIBRATORS, callbacks, strict=True)},
            }
        torch.save(found, folder / f"{strategy}{fitter.global_rank}.pt")

    on_strategy(strategy, fit)
    return [torch.load(file, weights_only=True) for file in sorted(folder.glob(f"{strategy}?.pt"))]


def test_every_calibrator_fits_the_best_weights_on_two_processes_as_on_one(tmp_path):
    ((one,),) = ([state["False"] for state in calibrate(tmp_path, "one")],)
    assert one["classes"]["counts"].sum() == 32 and one["classes"]["counts"].unique().numel() == 3
    for strategy in ("ddp", "fsdp2"):
        first, second = calibrate(tmp_path, strategy)
        for place, state in first.items():
            for name, wanted in one.items():
                for key, value in wanted.items():
                    assert torch.equal(state[name][key], second[place][name][key]), (strategy, name)
                    # Weights after averaged gradients differ in their last bits.
                    torch.testing.assert_close(state[name][key], value, rtol=2e-3, atol=1e-4, msg=f"{strategy} {name}")


def test_adafocal_has_the_same_exponents_on_two_processes(tmp_path):
    class Focal(ObjectiveMixin, Overfitting):
        def __init__(self):
            super().__init__()
            self.objective = Objective({"adafocal": AdaFocal()})

        def training_step(self, batch, batch_idx):
            return self.apply_objective(logits=self(batch[0]), target=batch[1])

        def validation_step(self, batch, batch_idx):
            return {"logits": self(batch[0]), "target": batch[1]}

    def fit(strategy):
        def run():
            module = Focal()
            fitter = trainer(tmp_path, [AdaFocalBins()], strategy, max_epochs=2, num_sanity_val_steps=0)
            fitter.fit(module, Images())
            loss = module.objective.terms["adafocal"].loss
            torch.save(dict(loss.named_buffers()), tmp_path / f"focal_{strategy}{fitter.global_rank}.pt")

        on_strategy(strategy, run)
        return [torch.load(file, weights_only=True) for file in sorted(tmp_path.glob(f"focal_{strategy}?.pt"))]

    (one,) = fit("one")
    assert one["gammas"].unique().numel() > 2
    for strategy in ("ddp", "fsdp2"):
        for found in fit(strategy):
            # Weights after averaged gradients differ in their last bits.
            torch.testing.assert_close(found, one, rtol=1e-3, atol=1e-4)


# ---- metrics


def several_values(rows):
    """The metrics of several values or of many labels, of some of the samples."""
    logits, target = (tensor[rows] for tensor in sample(101))
    decomposition, groups = BrierDecomposition(4, inputs="logits"), SubgroupAccuracy(3)
    sets = PredictionSetMetrics(4, least=5)
    decomposition.update(logits, target)
    groups.update(logits, target, (torch.arange(101) % 3)[rows])
    sets.update(logits > 0, target)
    ranked = PrecisionAtK(2)
    ranked.update(logits, torch.nn.functional.one_hot(target, 4))
    return [decomposition.compute(), groups.compute(), sets.compute(), ranked.compute()]


def decomposed(folder):
    rank = torch.distributed.get_rank()
    torch.save(several_values(slice(0, 67) if rank == 0 else slice(67, None)), folder / f"{rank}.pt")


def test_a_decomposition_on_two_processes_is_that_of_one(tmp_path):
    run_on_processes(in_group, 2, decomposed, tmp_path)
    one = several_values(slice(None))
    for rank in (0, 1):
        # Sums of float64 in another order.
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt"), one, rtol=1e-12, atol=1e-13)


def test_every_metric_is_tried_on_two_processes():
    """One value: METRICS of tests/metrics/test_every_metric.py, which tries them; the others: above, or apart."""
    tried = {*(type(make(inputs="logits")) for make, _ in METRICS.values()), BrierDecomposition, SubgroupAccuracy}
    tried |= {PredictionSetMetrics, PrecisionAtK, MembershipInference, OutOfDistributionDetection}
    found = classes_in(lightning_losses.metrics, Metric) - {PredictionMetric, MeanMetric}
    missing = {kind.__name__ for kind in found - tried}
    assert not missing, f"add {missing} to METRICS in tests/metrics/test_every_metric.py, with its function"
