"""Train one network from its configuration, so that it can be interrupted, resumed and kept."""

import copy
import functools
import math
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.utils.data import DataLoader

import lightning_losses
from lightning_losses.attacks import Attack
from lightning_losses.attacks.for_data import for_data
from lightning_losses.callbacks import History, MetricsFile, Progress
from lightning_losses.callbacks.interventions.numerics_guard import NumericsGuard
from lightning_losses.checkpoints import EpochSeed, LastCheckpoint
from lightning_losses.checkpoints.atomic_checkpoints import AtomicCheckpoints, read_checkpoint
from lightning_losses.checkpoints.interruption import interrupt_behind, interruptible
from lightning_losses.checkpoints.process_states import first_process
from lightning_losses.checkpoints.resumption import begin, check_resumption
from lightning_losses.data import ImageData
from lightning_losses.data.class_counts import count_classes, targets_of
from lightning_losses.environment.file_digests import file_digest
from lightning_losses.environment.source_digest import source_digest
from lightning_losses.experiments.config.check_config import (
    ConfigError,
    check_environment,
    check_trainer,
    nearest,
    on_cuda,
    runs_beside_others,
    shards_teacher,
)
from lightning_losses.experiments.config.instantiate import instantiate, targets
from lightning_losses.experiments.config.settings import Weights
from lightning_losses.experiments.messages import message, refused, tell
from lightning_losses.experiments.training.kept_networks import KeptNetworks
from lightning_losses.experiments.training.rehearsal import quiet, rehearse_step
from lightning_losses.losses.class_prior import tell_class_counts, without_class_counts
from lightning_losses.objective.ignored_targets import ignored_targets
from lightning_losses.parallel.connection import connect_processes
from lightning_losses.parallel.processes import value_of_first
from lightning_losses.teachers import checkpoint_teacher

# What configurations say that changes no result: how a trainer looks, and how batches come to the device.
IRRELEVANT = {
    "trainer": ("enable_progress_bar", "enable_model_summary", "log_every_n_steps"),
    "data": ("num_workers", "pin_memory"),
}


@dataclass(frozen=True)
class Trained:
    """A trained network, in evaluation mode on the CPU, and the record of its training.

    Attributes:
        name: its part in the run: "teacher", "baseline", "student".
        label: its name in tables and figures.
        network: the network itself.
        history: the logged values after each epoch, by name.
        seconds: of training.
        kept: whether an earlier run trained it.
    """

    name: str
    label: str
    network: nn.Module
    history: dict[str, list[float]]
    seconds: float
    kept: bool = False


def limited(batches: int, limit: int | float | None) -> int:
    """How many of so many batches a limit of Lightning's leaves: a whole number is a count, any other a share.

    Example:
        >>> limited(17, 0.5), limited(17, 1.0), limited(17, 1), limited(17, None)
        (8, 17, 1, 17)
    """
    if limit is None:
        return batches
    return int(batches * limit) if isinstance(limit, float) else min(batches, limit)


def training_of(config: DictConfig, name: str, module: DictConfig, **others: Any) -> "Training":
    """The training of a network with the data, trainer, scheduler, callbacks and seed of a configuration."""
    parts = {part: config.get(part) or None for part in ("scheduler", "callbacks")}
    shared = {"data": config.data, "trainer": config.trainer, "seed": config.seed, **parts}
    return Training(name=name, module=module, **{**shared, **others})


def training_of_seed(config: DictConfig, name: str, module: DictConfig, seed: int, **others: Any) -> "Training":
    """As `training_of`, with a seed of its own, which also draws the split and ends the name."""
    data = OmegaConf.to_container(config.data, resolve=True)
    assert isinstance(data, dict)
    split = OmegaConf.create({**data, "split_seed": seed})
    return training_of(config, f"{name}-{seed}", module, data=split, seed=seed, **others)


def rehearse_seeds(first: Iterable["Training"], others: Iterable["Training"], resumed: Path | None) -> None:
    """Take a step of the first seed's networks, and check those of the others where they are to go on."""
    for training in first:
        training.rehearse(resumed)
    if resumed is not None:
        for training in others:
            check_resumption(resumed / training.name, training.identity, training.build())


@dataclass(frozen=True)
class Training:
    """How one network is trained: everything that decides the result.

    Args:
        name: of the network in the run: "teacher", "baseline", "student".
        module: the configuration of its LightningModule.
        data: the configuration of its data.
        trainer: the configuration of its Trainer.
        scheduler: the configuration of its learning rate over time; None keeps it.
        callbacks: further callbacks' configurations, by name.
        seed: of the first weights, of the order of the samples, and of random operations in an epoch.
        weights: "last" takes the weights after the last epoch; "best" those after the epoch of best validation
            accuracy, the first of equals.
        teacher: the training of the teacher, if there is one.
        checkpoint: a file with the network's weights, to take in place of training it.
        execution: the configuration of an `Execution` of the network's blocks; it changes no result beyond rounding.
        shows_inputs: whether the module is shown examples of the inputs when it is built.
    """

    name: str
    module: DictConfig
    data: DictConfig
    trainer: DictConfig
    scheduler: DictConfig | None = None
    callbacks: DictConfig | None = None
    seed: int = 0
    weights: Weights = "last"
    teacher: "Training | None" = field(default=None, repr=False)
    checkpoint: str | None = None
    execution: DictConfig | None = None
    shows_inputs: bool = True

    def __post_init__(self) -> None:
        check_trainer(self.trainer)
        epochs, devices, batch_size = self.trainer.max_epochs, self.trainer.get("devices"), self.data.get("batch_size")
        if not isinstance(epochs, int) or epochs < 1:
            raise ValueError(f"trainer: max_epochs={epochs} came; give at least 1, so that the run has an end.")
        if isinstance(devices, int) and devices > 1 and batch_size and batch_size % devices:
            raise ValueError(
                f"data: batch_size={batch_size} came with {devices} processes; give a multiple of "
                f"{devices}, each process takes its share."
            )

    @property
    def label(self) -> str:
        """The network's name in tables and figures: its part in the run, and the terms of its objective."""
        return f"{self.name} ({' + '.join(self.module.objective.terms)})"

    @functools.cached_property
    def datamodule(self) -> ImageData:
        """The data, read and split."""
        data: ImageData = instantiate(self.data, seed=self.seed)
        data.prepare_data()
        data.setup()
        return data

    @property
    def identity(self) -> dict[str, Any]:
        """The plain values that determine the result of training; versions of the libraries among them."""
        plain = {
            name: OmegaConf.to_container(value, resolve=True) if isinstance(value, DictConfig) else value
            for name, value in (
                ("module", self.module),
                ("data", self.data),
                ("trainer", self.trainer),
                ("scheduler", self.scheduler),
                ("callbacks", self.callbacks),
            )
        }
        for part, irrelevant in IRRELEVANT.items():
            values = plain[part]
            assert isinstance(values, dict)
            plain[part] = {name: value for name, value in values.items() if name not in irrelevant}
        return {
            **plain,
            "seed": self.seed,
            "weights": self.weights,
            "samples": self.datamodule.fingerprint(),
            "teacher": None if self.teacher is None else self.teacher.identity,
            "checkpoint": None if self.checkpoint is None else file_digest(Path(self.checkpoint)),
            "versions": {
                "lightning_losses": lightning_losses.__version__,
                "torch": torch.__version__,
                "source": self.source,
            },
        }

    @property
    def source(self) -> str:
        """A hash of the code that determines the result of training: other code makes another network."""
        parts = (self.module, self.data, self.trainer, self.scheduler, self.callbacks)
        plain = [OmegaConf.to_container(part, resolve=True) for part in parts if part is not None]
        return source_digest([*targets(plain), __name__])

    def build(self, teacher: nn.Module | None = None) -> L.LightningModule:
        """The LightningModule before training, the same for the same seed."""
        with quiet():
            L.seed_everything(self.seed, verbose=False)
        make = instantiate(self.module, _partial_=True, _convert_="all")
        live: dict[str, Any] = {"example_inputs": self.datamodule.val.inputs[:8]} if self.shows_inputs else {}
        if teacher is not None:
            live["teacher"] = teacher
        if self.scheduler is not None:
            live["scheduler"] = functools.partial(
                instantiate(self.scheduler, _partial_=True), total_steps=self.total_steps
            )
        module: L.LightningModule = make(**live)
        self._tell_class_counts(module)
        if isinstance(attack := getattr(module, "attack", None), Attack):
            # A rehearsal has no trainer that would tell it.
            module.attack = for_data(attack, self.datamodule)  # type: ignore[assignment]
        return module

    def _tell_class_counts(self, module: nn.Module) -> None:
        """Count the training set's classes for the losses that take the counts, and were given none."""
        if without_class_counts(module):
            train: Any = self.datamodule.train
            held = targets_of(train)
            batches = (batch["target"] for batch in DataLoader(train, 256, collate_fn=dict))
            classes = getattr(self.datamodule, "num_classes", None)
            targets = batches if held is None else [held]
            tell_class_counts(module, count_classes("class_counts", targets, classes, ignored_targets(module)))

    @property
    def total_steps(self) -> int:
        """The optimizer steps of the whole training."""
        steps = math.ceil(self.batches / self.trainer.get("accumulate_grad_batches", 1)) * self.trainer.max_epochs
        return max(steps, 1)

    @property
    def batches(self) -> int:
        """The batches of an epoch that training takes; 0 where its limit is less than one."""
        return limited(self._whole, self.trainer.get("limit_train_batches"))

    @property
    def _whole(self) -> int:
        """The batches of an epoch."""
        data = self.datamodule
        planned = data.planned(data.batch_size, 1, 0) if isinstance(data, ImageData) else None
        return math.ceil(len(data.train if planned is None else planned) / data.batch_size)

    def _check_batches(self) -> None:
        """Raise for limits and intervals that don't fit the data; Lightning would only raise when training begins."""
        validation = len(self.datamodule.val_dataloader())
        for name, whole in (
            ("limit_train_batches", self._whole),
            ("limit_val_batches", validation),
        ):
            limit = self.trainer.get(name)
            if limit and limited(whole, limit) == 0:
                raise ConfigError(
                    f"trainer.{name}={limit}: of {whole} batches this is less than one; give at least {1 / whole:.2g}, "
                    "or a whole number of batches."
                )
        every = self.trainer.get("val_check_interval")
        validates = self.trainer.get("limit_val_batches") != 0
        if type(every) is int and every > self.batches and self.trainer.get("check_val_every_n_epoch", 1) and validates:
            raise ConfigError(
                f"trainer.val_check_interval={every}: an epoch has {self.batches} batches; give at most that, or count "
                "over epochs by +trainer.check_val_every_n_epoch=null."
            )

    def rehearse(self, resumed: Path | None = None) -> set[str]:
        """Take one step with untrained networks, so that errors appear before anything is trained.

        Args:
            resumed: the folder of checkpoints from which the run continues, if it does; it is not changed.

        Returns:
            The names of the metrics that the module logs; none for a network whose weights are given.
        """
        if self.checkpoint is not None:
            self.given()
            return set()
        self._check_batches()
        teacher = None if self.teacher is None else self.teacher.build().get_submodule("network")
        module = self.build(teacher)
        if self.execution is not None:
            try:
                instantiate(self.execution).check(module.get_submodule("network"), cuda=on_cuda(self.trainer))
            except ValueError as error:
                raise ConfigError(f"execution.{error}") from None
        if resumed is not None:
            check_resumption(resumed / self.name, self.identity, module)
        val: Any = self.datamodule.val
        validation = val.__getitems__(list(range(min(8, len(val)))))
        callbacks = callbacks_of(self.callbacks)
        logged = rehearse_step(module, self.first_batch(rows=8), self.trainer, validation, callbacks)
        self._check_monitors(logged)
        return logged

    def _check_monitors(self, logged: set[str]) -> None:
        """Raise for a callback that would wait for a metric which nothing logs."""
        for name, node in ({} if self.callbacks is None else self.callbacks).items():
            monitor = node.get("monitor") if isinstance(node, DictConfig) else None
            if monitor is not None and not self.callbacks_log and monitor not in logged:
                raise ConfigError(
                    f"callbacks.{name!s}.monitor={monitor}: nothing is logged as that; {nearest(monitor, logged)}"
                )

    @property
    def callbacks_log(self) -> bool:
        """Whether there are callbacks that may log something: all but Lightning's own."""
        plain = OmegaConf.to_container(self.callbacks, resolve=True) if self.callbacks is not None else {}
        return any(not name.startswith("lightning.") for name in targets(plain))

    def first_batch(self, rows: int | None = None, device: torch.device | None = None) -> dict[str, Any]:
        """What the first step of training is given: the first batch, or its first rows, and where training stands."""
        # As the student sees them: views, where images are augmented.
        views = getattr(self.datamodule, "views_of_train", None)
        dataset = self.datamodule.train if views is None else views
        rows = min(len(dataset), self.datamodule.batch_size, rows or len(dataset))
        batch = {name: tensor.to(device) for name, tensor in dataset.__getitems__(list(range(rows))).items()}
        return {**batch, "step": 0, "epoch": 0, "progress": 0.0, "epoch_progress": 0.0}

    def run(
        self,
        folder: Path,
        *,
        resume: bool = False,
        logger: Logger | None = None,
        teacher: nn.Module | None = None,
        metrics_file: Path | None = None,
        checkpoint_seconds: float = 0.0,
    ) -> Trained:
        """Train, leaving checkpoints in a folder, or go on from the checkpoint there.

        Each epoch's metrics are appended to `metrics_file`, if there is one; monitors without a folder then draw into
        ``report/`` beside it. Between checkpoints `checkpoint_seconds`
        go by, or more.

        Raises:
            KeyboardInterrupt: the training was interrupted; the checkpoint is there.
            ValueError: the checkpoint to resume from was made by other settings.
        """
        folder = folder / self.name
        checkpoint = begin(folder, self.identity, resume=resume)
        # A teacher that is sharded stays so; what comes after the training needs it whole.
        module = self.build(copy.deepcopy(teacher) if shards_teacher(self.trainer) else teacher)
        if self.execution is not None:
            instantiate(self.execution).prepare(module.get_submodule("network"))
        history = History()
        monitor = "val/accuracy" if self.weights == "best" else None
        further = callbacks_of(self.callbacks)
        # Before what changes gradients.
        guards = [callback for callback in further if isinstance(callback, NumericsGuard)] or [NumericsGuard()]
        further = [*guards, *(callback for callback in further if callback not in guards)]
        if metrics_file is not None and further:
            # Here, since it loads what draws.
            from lightning_losses.callbacks.monitors.monitor import Monitor

            for callback in further:
                if isinstance(callback, Monitor) and callback.folder is None:
                    callback.folder = metrics_file.parent / "report"
        watch: list[Callback] = [] if metrics_file is None else [MetricsFile(metrics_file)]
        if self.trainer.get("enable_progress_bar", True):
            watch.append(Progress(self.label))
        with quiet():
            check_environment(self.trainer)
            make = instantiate(self.trainer, _convert_="all", _partial_=True)
            trainer: L.Trainer = make(
                default_root_dir=folder,
                logger=logger or False,
                plugins=[AtomicCheckpoints(), *(make.keywords.get("plugins") or ())],
                callbacks=[
                    EpochSeed(self.seed),
                    history,
                    LastCheckpoint(folder, monitor, checkpoint_seconds),
                    *watch,
                    *further,
                ],
            )
            try:
                with interruptible(trainer), of_callbacks():
                    trainer.fit(module, self.datamodule, ckpt_path=checkpoint, weights_only=True)
            except SystemExit as left:
                # Lightning's answer to Ctrl-C and SIGTERM, after it has shut down.
                raise interrupt_behind(left) or KeyboardInterrupt from None
        # Read back from the file, since strategies that train in other processes leave no callback state in this one,
        # into a network as it was built, since others shard it. Processes may have folders of their own.
        folder = trainer.strategy.broadcast(folder)
        if not (folder / "last.ckpt").exists():
            raise ConfigError(
                f"trainer.max_time={self.trainer.get('max_time')}: it was over before the first step; give more."
            )
        final = read_checkpoint(folder / "last.ckpt")
        state = final["callbacks"][history.state_key]
        chosen = final if self.weights == "last" else read_checkpoint(folder / "best.ckpt")
        module = self.build(teacher)
        module.load_state_dict(chosen["state_dict"])
        network = module.get_submodule("network").cpu().eval().requires_grad_(False)
        return Trained(self.name, self.label, network, state["metrics"], state["seconds"])

    def run_once(self, kept: KeptNetworks, folder: Path, *, resume: bool = False) -> Trained:
        """The network that this training made before, or train it now and keep it, unless it diverged."""
        if self.checkpoint is not None:
            return self.given()
        kept.check(self.identity)
        if (before := self.kept(kept)) is not None:
            return before
        trained = self.run(folder, resume=resume)
        if first_process():
            try:
                self.keep(kept, trained)
            except OSError as error:
                if not refused(error):
                    raise
                tell(f"The {self.name} isn't kept for other runs: {message(error)} This run goes on with it.")
        return trained

    def kept(self, kept: KeptNetworks) -> Trained | None:
        """The network that this training made before, if it was kept."""
        network = self.build().get_submodule("network")
        values = kept.load(self.identity, network)
        if not self._is_kept(values is not None):
            return None
        assert values is not None
        return Trained(self.name, self.label, network.eval().requires_grad_(False), kept=True, **values)

    def keep(self, kept: KeptNetworks, trained: Trained) -> None:
        """Keep what this training made, unless it diverged."""
        weights = all(bool(parameter.isfinite().all()) for parameter in trained.network.parameters())
        if weights and all(math.isfinite(value) for values in trained.history.values() for value in values):
            kept.save(self.identity, trained.network, {"history": trained.history, "seconds": trained.seconds})

    def _is_kept(self, here: bool) -> bool:
        """Whether the first process found the network; another run may keep it between two processes' looks.

        Raises:
            ValueError: this process didn't.
        """
        if not runs_beside_others(self.trainer):
            return here
        with quiet():
            check_environment(self.trainer)
            connect_processes(instantiate(self.trainer, _convert_="all", logger=False, enable_checkpointing=False))
        on_first = bool(value_of_first(here))
        if on_first and not here:
            raise ValueError(
                f"cache: the first process has kept the {self.name}, and this one can't read it there; give cache= a "
                "folder that all processes share."
            )
        return on_first

    def given(self) -> Trained:
        """The network with the weights of its checkpoint, not trained here.

        Raises:
            ValueError: no such file, one that would have to be unpickled, or weights that don't fit.
        """
        assert self.checkpoint is not None
        network = checkpoint_teacher(self.checkpoint, self.build().get_submodule("network"))
        return Trained(self.name, f"{self.name} (given)", network.eval().requires_grad_(False), {}, 0.0)


def callbacks_of(config: DictConfig | None) -> list[Callback]:
    """The callbacks of a configuration in their order, without those that are null."""
    made: list[Any] = [] if config is None else list(instantiate(config, _convert_="all").values())
    return [callback for callback in made if callback is not None]


@contextmanager
def of_callbacks() -> Iterator[None]:
    """Within this context what Lightning's callbacks refuse is an error of the configuration."""
    try:
        yield
    except RuntimeError as error:
        if not _raised_in("lightning.pytorch.callbacks", error):
            raise
        raise ConfigError(f"callbacks: {str(error).strip().splitlines()[0]}") from None


def _raised_in(package: str, error: Exception) -> bool:
    """Whether it was raised by a module of a package."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__")).startswith(package)
