"""Trains a classifier by ways that seek flat minima, and reports what they predict and how sharp they end."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from omegaconf import DictConfig, OmegaConf
from torch import nn

from lightning_losses.callbacks import SWAG
from lightning_losses.checkpoints.atomic_checkpoints import read_checkpoint
from lightning_losses.checkpoints.process_states import first_process
from lightning_losses.data import ImageDataset
from lightning_losses.diagnostics.hessian_spectrum import hessian_product, lanczos
from lightning_losses.experiments.comparison.judged_claims import JudgedClaim, claims_of, judged_claims
from lightning_losses.experiments.comparison.shown_numbers import shown, spread
from lightning_losses.experiments.config.check_config import ConfigError
from lightning_losses.experiments.evidence.claims import Claim
from lightning_losses.experiments.evidence.seed_interval import seed_interval
from lightning_losses.experiments.launch import Experiment
from lightning_losses.experiments.loggers.loggers import plain_settings
from lightning_losses.experiments.page import Page, Table
from lightning_losses.experiments.training.evaluation import Scores, predict_logits
from lightning_losses.experiments.training.training import Training, callbacks_of, rehearse_seeds, training_of_seed
from lightning_losses.metrics import negative_log_likelihood
from lightning_losses.plots.seed_intervals import seed_intervals

FLAT_METRICS = ("accuracy", "nll", "ece", "train_nll", "sharpness", "seconds")
_DRAWN = ("accuracy", "nll", "sharpness")
_ENSEMBLE = "{} ensemble"


class FlatMinima(Experiment):
    """The same network, trained by each method of the settings and on each seed.

    A method changes callbacks, objective, learning rate over time, module, or nothing. One with the callback `SWAG` has
    a second row: an ensemble of draws from the Gaussian over its weights, whose sharpness is that of the mean weights.
    """

    @property
    def methods(self) -> dict[str, DictConfig]:
        """Those of the settings by name, first one that changes nothing."""
        named = self.config.flat_minima.methods
        return {str(name): named[name] for name in sorted(named, key=lambda name: bool(named[name]))}

    def trainings(self, seed: int) -> dict[str, Training]:
        """The training of each method."""
        return {name: self._training(name, method, seed) for name, method in self.methods.items()}

    def claims(self) -> tuple[list[Claim], dict[str, float]]:
        """What is claimed of the methods, and which differences would matter."""
        ensembles = [_ENSEMBLE.format(name) for name in self.methods if self._swag(name) is not None]
        return claims_of(self.config.flat_minima, [*self.methods, *ensembles], FLAT_METRICS)

    def rehearse(self) -> None:
        """Take a step by every method, and read the claims."""
        first, *others = self.config.flat_minima.seeds or [None]
        if first is None:
            raise ConfigError("flat_minima: no seeds came; give at least one.")
        self.claims()
        later = [training for seed in others for training in self.trainings(seed).values()]
        rehearse_seeds(self.trainings(first).values(), later, self.resumed)

    def perform(self, folder: Path) -> dict[str, dict[str, list[float]]] | None:
        """Train, measure and report; the numbers by method, one a seed. None in further processes."""
        started, checkpoints = time.perf_counter(), folder / "checkpoints"
        values: dict[str, dict[str, list[float]]] = {}
        for seed in self.config.flat_minima.seeds:
            for name, training in self.trainings(seed).items():
                trained = training.run(checkpoints, resume=self.config.resume is not None)
                rows = {name: (trained.network, trained.network)}
                if (swag := self._swag(name)) is not None:
                    held = read_checkpoint(checkpoints / training.name / "last.ckpt")["callbacks"]
                    swag.load_state_dict(held[swag.state_key])
                    rows[_ENSEMBLE.format(name)] = self._drawn(swag, trained.network, training)
                for row, (predicting, at) in rows.items():
                    for metric, value in self._numbers(predicting, at, training).items():
                        values.setdefault(row, {}).setdefault(metric, []).append(value)
                    values[row].setdefault("seconds", []).append(trained.seconds)
        if not first_process():
            return None
        taken = time.perf_counter() - started
        page = self._page(values, training, taken)
        page.write(folder / "report")
        page.show(taken, folder / "report")
        return values

    def _training(self, name: str, method: DictConfig, seed: int) -> Training:
        student: Any = OmegaConf.to_container(method.get("student") or self.config.modules.student, resolve=True)
        objective = method.get("objective") or self.config.objective
        module = OmegaConf.create({**student, "objective": OmegaConf.to_container(objective, resolve=True)})
        own = {part: method[part] for part in ("callbacks", "scheduler") if part in method}
        return training_of_seed(self.config, name, module, seed, **own)

    def _swag(self, name: str) -> SWAG | None:
        """A method's callback of that kind, before training."""
        callbacks = callbacks_of(self.methods[name].get("callbacks"))
        return next((callback for callback in callbacks if isinstance(callback, SWAG)), None)

    def _drawn(self, swag: SWAG, network: nn.Module, training: Training) -> tuple[nn.Module, nn.Module]:
        """The ensemble of draws, and the network at the mean weights."""
        train: Any = training.datamodule.train
        data = [{"inputs": part} for part in train.inputs.split(training.datamodule.batch_size)]
        samples, seed = self.config.flat_minima.samples, training.seed
        ensemble = swag.ensemble(network, samples, seed=seed, batches=data)
        (mean,) = swag.ensemble(network, 1, scale=0.0, batches=data).members.values()
        return ensemble, mean

    def _numbers(self, predicting: nn.Module, at: nn.Module, training: Training) -> dict[str, float]:
        """What is measured of a network, and of the weights whose minimum is meant."""
        data: Any = training.datamodule
        scores = Scores.of(predict_logits(predicting, data.test), data.test.target)
        rows = min(self.config.flat_minima.hessian_rows, len(data.train))
        train_nll = negative_log_likelihood(predict_logits(predicting, data.train), data.train.target, inputs="logits")
        return {
            "accuracy": scores.accuracy,
            "nll": scores.nll,
            "ece": scores.ece,
            "train_nll": train_nll.item(),
            "sharpness": sharpness(at, data.train, rows, self.config.flat_minima.lanczos_steps),
        }

    def _page(self, values: Mapping[str, Mapping[str, Sequence[float]]], training: Training, taken: float) -> Page:
        claims, margins = self.claims()
        judged: list[JudgedClaim] = judged_claims(claims, values, margins)
        intervals = {
            row: {metric: seed_interval(numbers[metric]) for metric in FLAT_METRICS} for row, numbers in values.items()
        }
        table = [[row, *(spread(each[metric], metric) for metric in FLAT_METRICS)] for row, each in intervals.items()]
        panels = {
            shown(metric).title: {
                row: [tuple(shown(metric).factor * end for end in each[metric])] for row, each in intervals.items()
            }
            for metric in _DRAWN
        }
        data = training.datamodule
        note = (
            "Sharpness is the largest eigenvalue of the Hessian of the mean cross-entropy over "
            f"{self.config.flat_minima.hessian_rows:,} training samples, in evaluation mode; that of an ensemble is at "
            "the mean of the weights. Seconds are those of the training. Seeds draw weights, order and data."
        )
        seeds = ", ".join(map(str, self.config.flat_minima.seeds))
        return Page(
            title=f"Flat minima on {data.name}, seeds {seeds}",
            command=self.command,
            body=[
                Table(["method", *(shown(metric).name for metric in FLAT_METRICS)], table),
                note,
                "\n".join(one.markdown() for one in judged),
                "![flat minima](flat_minima.png)",
            ],
            said=[note, *map(str, judged)],
            numbers={
                "seconds": taken,
                "fingerprint": data.fingerprint(),
                "values": values,
                "claims": [one.plain() for one in judged],
            },
            settings=plain_settings(self.config),
            figures={"flat_minima.png": lambda: seed_intervals(panels, stages=["after training"])},  # type: ignore[arg-type]
        )


def sharpness(network: nn.Module, data: ImageDataset, rows: int, steps: int) -> float:
    """The largest eigenvalue of the Hessian of the mean cross-entropy over a data set's first rows."""
    trained = [parameter.requires_grad_() for parameter in network.eval().parameters()]
    with torch.enable_grad():
        loss = F.cross_entropy(network(data.inputs[:rows]).float(), data.target[:rows])
        product = hessian_product(loss, trained)
        size = sum(parameter.numel() for parameter in trained)
        spectrum = lanczos(product, size, steps=steps, generator=torch.Generator().manual_seed(0))
    network.requires_grad_(False)
    return spectrum.values[-1].item()
