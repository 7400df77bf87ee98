"""Fits a post-hoc calibrator on validation data when training ends, and tests before and after it."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from lightning_losses.calibrators import Calibrator, ConformalSets, LogitAdjuster, TemperatureScaling
from lightning_losses.callbacks.access import evaluation_mode, refuse_unwritable, sum_over_processes
from lightning_losses.callbacks.calibration.evaluation_logits import (
    Evaluated,
    EvaluationLogits,
    loaders_of,
    predicted,
    with_views,
)
from lightning_losses.callbacks.records.figures import publish, publish_table
from lightning_losses.checkpoints.atomic_checkpoints import read_checkpoint
from lightning_losses.checkpoints.last_checkpoint import LastCheckpoint
from lightning_losses.environment.lightning_internals import load_validation
from lightning_losses.environment.two_lightnings import is_named
from lightning_losses.metrics import PredictionSetMetrics, calibration_summary
from lightning_losses.metrics.bins import check_bins
from lightning_losses.metrics.predictions import checked_predictions
from lightning_losses.numerics.checks import check_choice
from lightning_losses.parallel.sharding import is_sharded, load_weights, refuse_flat_parameters
from lightning_losses.plots.coverage_against_alpha import coverage_against_alpha
from lightning_losses.plots.reliability_diagram import reliability_diagram


class PostHocCalibration(Callback):
    """Fits a post-hoc calibrator on validation data at the end of `fit`, and evaluates test data before and after it.

    When `fit` ends, the weights of the best checkpoint (of a `ModelCheckpoint` or `LastCheckpoint` with a monitor; else
    the last weights) predict the validation data by `predict_step`, which must return ``{"logits", "target"}``; the
    calibrator is fitted to the samples of all processes, each once, and written beside the checkpoint as
    ``<checkpoint>.calibrator.safetensors``. Afterwards the module has its last weights again. All processes hold the
    calibrator that a single process would have fitted, also under FSDP2. Checkpoints don't contain it: a resumed fit
    fits it anew.

    `trainer.test` then logs ``test/calibration/before/<metric>`` and ``test/calibration/after/<metric>`` of
    `calibration_summary` and draws both reliability diagrams in one figure. Test the checkpoint that was calibrated
    (``ckpt_path="best"``). Before any fit nothing is logged. A calibrator that uses transformed views of the images
    costs one more prediction per view.

    Conformal sets are fitted in the same way. `trainer.test` then logs ``test/conformal/<measure>`` of
    `PredictionSetMetrics`, and draws the sets' coverage and size against alpha.

    Args:
        calibrator: an unfitted calibrator, or conformal sets; or a function or class that makes one.
        folder: the folder of the calibrator's file; None: beside the checkpoint, or the trainer's root folder.
        num_bins: number of bins of the binned errors and the diagram, at least 1.
        dataloader_idx: the number of the validation data loader to fit on.
        weights: "best", the weights of the best checkpoint if there is one; or "last".
        ignore_index: the target of ignored samples; None takes the module's `ignore_index`, or that of its losses.

    Attributes:
        calibrator: the calibrator, fitted once `fit` has ended.
        path: the file, once it is written; None before.

    Raises:
        ValueError: an object that makes no calibrator; when a fit starts, no validation data, FSDP1, no `predict_step`,
            a best checkpoint that is gone, or hyperparameters that can't be loaded from a checkpoint; from the first
            validation batch on, steps that return no logits and target, or ones that don't belong together.
        OSError: when a fit starts, a folder that can't be written to.

    Example:
        >>> PostHocCalibration(TemperatureScaling).calibrator.fitted
        False
    """

    def __init__(
        self,
        calibrator: Calibrator | ConformalSets | Callable[[], Calibrator | ConformalSets] = TemperatureScaling,
        folder: str | Path | None = None,
        num_bins: int = 15,
        dataloader_idx: int = 0,
        weights: Literal["best", "last"] = "best",
        ignore_index: int | None = None,
    ) -> None:
        unfitted = calibrator if isinstance(calibrator, Calibrator | ConformalSets) else calibrator()
        if not isinstance(unfitted, Calibrator | ConformalSets):
            raise ValueError(
                f"PostHocCalibration: calibrator gave a {type(unfitted).__name__}; give a Calibrator, or a function "
                "that makes one."
            )
        check_bins("PostHocCalibration", num_bins)
        check_choice("PostHocCalibration", "weights", weights, ("best", "last"))
        self.calibrator = unfitted
        self.folder = None if folder is None else Path(folder)
        self.num_bins = num_bins
        self.dataloader_idx = dataloader_idx
        self.weights = weights
        self.path: Path | None = None
        views, binary = bool(unfitted.views), unfitted.takes_binary
        self._collected = EvaluationLogits("PostHocCalibration", views=views, binary=binary, ignore_index=ignore_index)
        self._predicts = self._validated = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse at the start, not at the end, a fit after which no calibrator could be fitted."""
        if stage != "fit":
            return
        self._predicts = self._validated = False
        if not trainer.enable_validation:
            raise ValueError(
                "PostHocCalibration: the trainer has no validation data to fit on; give a validation data "
                "loader, and limit_val_batches above 0."
            )
        _check_predicts(pl_module)
        if self.weights == "best" and any(map(_keeps_best, trainer.checkpoint_callbacks)):
            for owner in (pl_module, getattr(trainer, "datamodule", None)):
                _check_hyperparameters(owner)
        keeps = self.weights == "best" and any(map(_keeps_best, trainer.checkpoint_callbacks))
        if self.folder is not None or not keeps:
            # Else it goes beside the checkpoint.
            refuse_unwritable(trainer, self.folder or Path(trainer.default_root_dir))

    def rehearse(self, module: L.LightningModule, batch: Any, outputs: Any) -> None:
        """Refuse a prediction that no calibrator can be fitted to."""
        _check_predicts(module)
        predicted = with_views(
            "PostHocCalibration", module, module.predict_step(batch, 0), (batch, 0), self.calibrator.views
        )
        self._collected.read(module, predicted, step="predict_step")

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Try `predict_step` on the first batch that has targets, already in the sanity check."""
        if self._predicts or trainer.state.fn != "fit" or dataloader_idx != self.dataloader_idx:
            return
        several = len(loaders_of(trainer.val_dataloaders)) > 1
        arguments = (batch, batch_idx, dataloader_idx)[: 3 if several else 2]
        with evaluation_mode(pl_module), torch.no_grad(), trainer.precision_plugin.forward_context():
            predicted = pl_module.predict_step(*arguments)
            views = self.calibrator.views
            viewed = with_views("PostHocCalibration", pl_module, predicted, arguments, views)
            target = self._collected.read(pl_module, viewed, step="predict_step").target
        self._predicts = bool((target != -100).any())
        if is_sharded(pl_module):
            # A forward pass is of all processes: all of them predict the next batch too, or none does.
            self._predicts = bool(sum_over_processes(trainer, _number(pl_module, self._predicts)))

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """After the first validation, refuse data without targets; at the end of the fit it would be too late."""
        if self._validated or trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        self._validated = True
        if not sum_over_processes(trainer, _number(pl_module, self._predicts)):
            raise ValueError(
                "PostHocCalibration: no sample of the validation data has a target to fit on; give data with targets."
            )

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse sharded weights, too few data loaders or a missing best checkpoint; only now are these known."""
        assert trainer.strategy.model is not None
        refuse_flat_parameters("PostHocCalibration", trainer.strategy.model.modules())
        sources = loaders_of(trainer.val_dataloaders)
        if sources and self.dataloader_idx >= len(sources):
            raise ValueError(
                f"PostHocCalibration: there is no data loader {self.dataloader_idx} to predict; the trainer has "
                f"{len(sources)}."
            )
        best = _best_checkpoint(trainer) if self.weights == "best" else None
        if best is not None and not best.exists():
            raise ValueError(
                f"PostHocCalibration: the best checkpoint so far, {best}, is gone; put it back, or give weights='last'."
            )

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Refuse a calibrator that no callback has told, when training began, what it is fitted to."""
        if batch_idx == 0 and isinstance(self.calibrator, LogitAdjuster):
            self.calibrator.check_known()

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Fit the calibrator to the best checkpoint's validation logits, and write it."""
        load_validation(trainer)
        best = _best_checkpoint(trainer) if self.weights == "best" else None
        logits, target = self._validation(trainer, pl_module, best)
        self.calibrator.cpu().fit(logits, target)
        # Processes may differ by rounding on different hardware; the broadcast makes them bitwise equal.
        self.calibrator.load_state_dict(trainer.strategy.broadcast(self.calibrator.state_dict()))
        self.path = self._path(trainer, best)
        failure: tuple[int | None, str, str] | None = None
        if trainer.is_global_zero:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self.calibrator.save(self.path)
            except OSError as error:
                failure = error.errno, error.strerror or str(error), str(error.filename or self.path)
        # The others wait until the file is there, and raise what kept it from being written.
        failure = trainer.strategy.broadcast(failure)
        if failure is not None:
            raise OSError(*failure)

    def on_test_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin anew."""
        self._collected.clear()

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Take in what the step returned."""
        if self.calibrator.fitted:
            arguments = (batch, batch_idx, dataloader_idx)[: 2 if len(loaders_of(trainer.test_dataloaders)) == 1 else 3]
            views = self.calibrator.views
            # In the precision in which the step predicted the samples themselves.
            with trainer.precision_plugin.forward_context():
                outputs = with_views("PostHocCalibration", pl_module, outputs, arguments, views)
            self._collected.add(pl_module, outputs, dataloader_idx, step="test_step")

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the metrics before and after calibration, and draw."""
        found = self._collected.gather(trainer, trainer.test_dataloaders)
        for number, (logits, target) in found.items():
            if len(target) == 0:
                continue
            calibrator = self.calibrator.cpu()
            if isinstance(calibrator, ConformalSets):
                prefix = "test/conformal" if len(found) == 1 else f"test/conformal/{number}"
                self._report_sets(trainer, pl_module, calibrator, prefix, logits, target)
                continue
            prefix = "test/calibration" if len(found) == 1 else f"test/calibration/{number}"
            with torch.no_grad():
                calibrated = calibrator(logits)
            logits = calibrator.original(logits)
            parts = {
                part: calibration_summary(values, target, inputs="logits", num_bins=self.num_bins)
                for part, values in (("before", logits), ("after", calibrated))
            }
            pl_module.log_dict(
                {
                    f"{prefix}/{part}/{name}": value.float()
                    for part, summary in parts.items()
                    for name, value in summary.items()
                },
                sync_dist=True,
            )
            if trainer.is_global_zero:
                figure = reliability_diagram(
                    logits,
                    target,
                    inputs="logits",
                    after=calibrated,
                    num_bins=self.num_bins,
                    title=type(self.calibrator).__name__,
                )
                publish(trainer, f"{prefix}/reliability", figure, self.folder)
                publish_table(
                    trainer,
                    f"{prefix}/table",
                    ["metric", *parts],
                    [[name, *(float(summary[name]) for summary in parts.values())] for name in parts["before"]],
                )

    def _report_sets(
        self,
        trainer: L.Trainer,
        module: L.LightningModule,
        calibrator: ConformalSets,
        prefix: str,
        logits: torch.Tensor,
        target: torch.Tensor,
    ) -> None:
        """Log how often sets hold the class and how large they are, and draw both against alpha."""
        # Rows of NaN would have every class in their sets, and be covered.
        logits, target, *_ = checked_predictions("PostHocCalibration", logits, target, inputs="logits")
        sets = calibrator(logits, uniforms=calibrator.uniforms_of(len(target)))
        metric = PredictionSetMetrics(sets.shape[-1], calibrator.alpha, sync_on_compute=False)
        metric.update(sets, target)
        values = {name: value.float() for name, value in metric.compute().items()}
        module.log_dict({f"{prefix}/{name}": value for name, value in values.items()}, sync_dist=True)
        if trainer.is_global_zero:
            name = type(calibrator).__name__
            figure = coverage_against_alpha({name: calibrator}, logits, target, title=name)
            publish(trainer, f"{prefix}/coverage", figure, self.folder)
            publish_table(trainer, f"{prefix}/table", ["measure", name], [[n, float(v)] for n, v in values.items()])

    def _validation(self, trainer: L.Trainer, module: L.LightningModule, best: Path | None) -> Evaluated:
        last = None
        if best is not None and is_sharded(module):
            last = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
            load_weights(module, best)
        elif best is not None:
            last = {
                name: tensor.detach().cpu().clone() if isinstance(tensor, torch.Tensor) else tensor
                for name, tensor in module.state_dict().items()
            }
            module.load_state_dict(read_checkpoint(best)["state_dict"])
        try:
            return predicted(
                self._collected,
                trainer,
                module,
                trainer.val_dataloaders,
                trainer.num_val_batches,
                self.dataloader_idx,
                self.calibrator.views,
            )
        finally:
            if last is not None:
                module.load_state_dict(last)

    def _path(self, trainer: L.Trainer, best: Path | None) -> Path:
        folder = self.folder or (best.parent if best is not None else Path(trainer.default_root_dir))
        return folder / f"{'last' if best is None else best.stem}.calibrator.safetensors"


def _check_predicts(module: L.LightningModule) -> None:
    if type(module).predict_step is L.LightningModule.predict_step:
        raise ValueError(
            f"PostHocCalibration: {type(module).__name__} has no predict_step of its own; define one that returns "
            '{"logits": logits, "target": target}.'
        )


def _number(module: L.LightningModule, value: bool) -> torch.Tensor:
    return torch.tensor(float(value), device=module.device)


def _keeps_best(callback: Callback) -> bool:
    keeps = is_named(callback, "ModelCheckpoint") or isinstance(callback, LastCheckpoint)
    return keeps and getattr(callback, "monitor", None) is not None


def _check_hyperparameters(owner: Any) -> None:
    """Refuse hyperparameters in the checkpoint that can't be loaded without unpickling."""
    for name, value in dict(getattr(owner, "hparams", None) or {}).items():
        memory = io.BytesIO()
        try:
            torch.save(value, memory)
            memory.seek(0)
            torch.load(memory, weights_only=True)
        except Exception:  # pickling and safe loading may raise anything
            raise ValueError(
                f"PostHocCalibration: {type(owner).__name__}'s hyperparameter {name!r}, a {type(value).__name__}, "
                "can't be loaded safely from the best checkpoint; leave it out by "
                f"save_hyperparameters(ignore=[{name!r}]), or give weights='last'."
            ) from None


def _best_checkpoint(trainer: L.Trainer) -> Path | None:
    callbacks: list[Any] = list(trainer.callbacks)  # type: ignore[attr-defined]
    for callback in callbacks:
        if is_named(callback, "ModelCheckpoint") and callback.monitor is not None and callback.best_model_path:
            return Path(callback.best_model_path)
        if isinstance(callback, LastCheckpoint) and callback.best is not None:
            return callback.folder / "best.ckpt"
    return None
