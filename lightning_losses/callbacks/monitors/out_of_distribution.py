"""Watches how well scores tell the evaluated data from foreign data."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, field
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_losses.callbacks.calibration.evaluation_logits import loaders_of, on_the_device
from lightning_losses.callbacks.declared import DeclaredCallback
from lightning_losses.callbacks.monitors.probe import inputs_and_target
from lightning_losses.data.loading import share_of_samples
from lightning_losses.metrics.out_of_distribution import OutOfDistributionDetection
from lightning_losses.numerics.settings import Count, Whole
from lightning_losses.out_of_distribution import OutOfDistributionScore, fit_scores, scores_of
from lightning_losses.out_of_distribution.base import inputs_of
from lightning_losses.out_of_distribution.measuring import measuring
from lightning_losses.parallel.sharding import is_sharded, unsharded_copy


class OutOfDistribution(DeclaredCallback):
    """Logs how well each score tells the validation or test data from each foreign set, after the epoch.

    As ``val/ood/<score>/<set>/<measure>``, or ``test/ood/...``, for the measures of `out_of_distribution_detection`:
    ``auroc``, ``fpr95_id_positive``, ``fpr95_ood_positive``, ``aupr_id``, ``aupr_ood``; checkpoints and early stopping
    can monitor them. Scores that learn are fitted anew each time, to the training data. The module, called on a batch's
    inputs, gives the logits. Processes share the samples out among them, each sample once; under FSDP2 each measures on
    a temporary copy with whole weights. The trainer's `limit_val_batches` and `limit_test_batches` hold for the
    evaluated data and for each foreign set, counted from the data sets' beginnings. Weights, buffers, gradients and
    torch's random states stay as they are.

    Cost: every n epochs, the scores' passes over the evaluated and the foreign data, and one over the training data if
    a score learns.

    Args:
        scores: the scores by name.
        foreign: foreign data by name: a data loader, a data set, or a data module, of which the test data are taken.
        train: a data loader or data set to fit scores to; None takes the training data of the fit, also in a test after
            it, or else the data module's.
        held_out: a pair of such, of known and of foreign inputs, to tune scores on that need it.
        dataloader_idx: which of the evaluation's data loaders holds the known data.
        every_n_epochs: epochs between measurements in a fit, at least 1.

    Attributes:
        latest: the values of the latest measurement, by logged name.

    Raises:
        ValueError: no scores or no foreign data; at the start, layers that the module lacks, or a score that needs
            tuning without `held_out`; when measuring, data without a data set of known length, or none to fit scores
            to.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> from lightning_losses.out_of_distribution import Energy
        >>> callback = OutOfDistribution({"energy": Energy()}, {"noise": TensorDataset(torch.randn(64, 2))})
        >>> callback.every_n_epochs
        1
    """

    name = "out_of_distribution"

    scores: Mapping[str, OutOfDistributionScore]
    foreign: Mapping[str, Any]
    _: KW_ONLY
    train: Any = None
    held_out: tuple[Any, Any] | None = None
    dataloader_idx: Whole = 0
    every_n_epochs: Count = 1
    latest: dict[str, float] = field(init=False, default_factory=dict)
    _fitted_on: Any = field(init=False, default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        for part, given in (("scores", self.scores), ("foreign", self.foreign)):
            if not isinstance(given, Mapping):
                raise ValueError(f"{self.name}: {part} came as a {type(given).__name__}; give a mapping, by name.")
        for name, score in self.scores.items():
            if not isinstance(score, OutOfDistributionScore):
                raise ValueError(f"{self.name}: scores.{name} is a {type(score).__name__}; give a score, as MSP().")
        if self.held_out is not None and not (isinstance(self.held_out, Sequence) and len(self.held_out) == 2):
            raise ValueError(
                f"{self.name}: held_out came as a {type(self.held_out).__name__}; give a pair, of known and foreign."
            )
        if isinstance(self.train, L.LightningDataModule):
            raise ValueError(f"{self.name}: train came as a data module; give its training loader or data set.")
        if not self.scores or not self.foreign:
            raise ValueError(
                f"{self.name}: {len(self.scores)} scores and {len(self.foreign)} foreign sets came; give at least one "
                "of each, by name."
            )
        self.scores, self.foreign = dict(self.scores), dict(self.foreign)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse what could not be measured later."""
        layers = dict(pl_module.named_modules())
        for name, score in self.scores.items():
            if missing := [layer for layer in score.read_layers if layer not in layers]:
                raise ValueError(
                    f"{self.name}: {name} reads {missing}, which the module lacks; its layers are "
                    f"{', '.join(filter(None, layers))}."
                )
            if score.needs_tuning and self.held_out is None:
                raise ValueError(f"{self.name}: {name} needs tuning; give held_out, a pair of known and foreign data.")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note the training data, which the trainer forgets after the fit."""
        self._fitted_on = trainer.train_dataloader

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure, where it is time."""
        fitting = trainer.state.fn == "fit"
        if trainer.sanity_checking or (fitting and (trainer.current_epoch + 1) % self.every_n_epochs):
            return
        self._measure(trainer, pl_module, trainer.val_dataloaders, "val")

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure."""
        self._measure(trainer, pl_module, trainer.test_dataloaders, "test")

    def _measure(self, trainer: L.Trainer, module: L.LightningModule, loaders: Any, stage: str) -> None:
        sources = loaders_of(loaders)
        if self.dataloader_idx >= len(sources):
            raise ValueError(
                f"{self.name}: dataloader_idx={self.dataloader_idx} came; the {stage} data have {len(sources)} loaders."
            )
        network = unsharded_copy(module) if is_sharded(module) else module
        with measuring(network):
            if any(score.learns for score in self.scores.values()):
                train = self._training_data(trainer)
                pairs = (inputs_and_target(self.name, b) for b in self._share(trainer, module, train, "training"))
                fit_scores(list(self.scores.values()), network, pairs)
            self._tune(trainer, module, network)
            limit = trainer.limit_val_batches if stage == "val" else trainer.limit_test_batches
            known = self._scores(trainer, module, network, sources[self.dataloader_idx], "in-distribution", limit)
            values: dict[str, float] = {}
            for name, data in self.foreign.items():
                foreign = self._scores(trainer, module, network, data, "foreign", limit)
                for score in self.scores:
                    found = _measured(known[score], foreign[score])
                    values |= {f"{stage}/ood/{score}/{name}/{measure}": value for measure, value in found.items()}
        self.latest = values
        # Every process has the same values, so their mean is the value itself.
        module.log_dict(values, sync_dist=True)

    def _training_data(self, trainer: L.Trainer) -> Any:
        datamodule = getattr(trainer, "datamodule", None)
        if self.train is not None or self._fitted_on is not None:
            return self.train if self.train is not None else self._fitted_on
        if datamodule is None:
            raise ValueError(f"{self.name}: scores are to be fitted, and there are no training data; give train.")
        # An evaluation sets up no training data.
        datamodule.setup("fit")
        return datamodule.train_dataloader()

    def _tune(self, trainer: L.Trainer, module: L.LightningModule, network: Any) -> None:
        if self.held_out is None:
            return
        known, foreign = (
            [inputs_of(batch) for batch in self._share(trainer, module, data, "held-out")] for data in self.held_out
        )
        for score in self.scores.values():
            score.tune(network, known, foreign)

    def _scores(
        self,
        trainer: L.Trainer,
        module: L.LightningModule,
        network: Any,
        data: Any,
        kind: str,
        limit: float | None,
    ) -> dict[str, Tensor]:
        """Every score of this process's share of some data, of so many batches or such a fraction of them."""
        parts = [
            scores_of(self.scores, network, inputs_of(batch))
            for batch in self._share(trainer, module, data, kind, limit)
        ]
        return {name: torch.cat([part[name] for part in parts]) for name in self.scores}

    def _share(
        self, trainer: L.Trainer, module: L.LightningModule, data: Any, kind: str, limit: float | None = None
    ) -> Iterator[Any]:
        loader = _loader_of(data)
        size = getattr(loader, "batch_size", None)
        share = share_of_samples(self.name, loader, trainer.world_size, trainer.global_rank, size, kind=kind)
        if isinstance(limit, float):
            # As a trainer counts; of a small foreign set at least one.
            limit = max(int(limit * len(share)), 1)
        for batch in itertools.islice(share, limit):
            yield on_the_device(trainer, module, batch)


def _loader_of(data: Any) -> Any:
    if isinstance(data, L.LightningDataModule):
        data.prepare_data()
        data.setup("test")
        return loaders_of(data.test_dataloader())[0]
    if isinstance(data, Mapping):
        raise ValueError(f"out_of_distribution: several loaders came at once, {', '.join(data)}; give one, as train=.")
    return data if hasattr(data, "collate_fn") else DataLoader(data, 256)


def _measured(known: Tensor, foreign: Tensor) -> dict[str, float]:
    """The measures of all processes' scores."""
    metric = OutOfDistributionDetection().to(known.device)
    metric.update(known, torch.zeros_like(known, dtype=torch.bool))
    metric.update(foreign, torch.ones_like(foreign, dtype=torch.bool))
    return {name: float(value) for name, value in metric.compute().items()}
