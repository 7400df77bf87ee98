"""Trains a classifier with several seeds, and compares the conformal sets that are fitted to each."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.calibrators import ConformalSets
from lightning_losses.checkpoints.process_states import first_process
from lightning_losses.experiments.comparison.judged_claims import claims_of, judged_claims
from lightning_losses.experiments.comparison.shown_numbers import SET_METRICS, shown, spread
from lightning_losses.experiments.config.check_config import ConfigError
from lightning_losses.experiments.config.instantiate import instantiate
from lightning_losses.experiments.evidence.claims import Claim
from lightning_losses.experiments.evidence.seed_interval import seed_interval
from lightning_losses.experiments.launch import Experiment
from lightning_losses.experiments.loggers.loggers import plain_settings
from lightning_losses.experiments.page import Page, Table
from lightning_losses.experiments.training.evaluation import predict_logits
from lightning_losses.experiments.training.training import Training, rehearse_seeds, training_of_seed
from lightning_losses.metrics import PredictionSetMetrics, set_coverage
from lightning_losses.plots.coverage_against_alpha import coverage_against_alpha

# The share of the test rows that are hard: those whose likeliest class has the least probability.
_HARD = 0.2


class ConformalComparison(Experiment):
    """Classifiers of several seeds and splits, on each of which every method is fitted to validation rows."""

    def trainings(self) -> list[Training]:
        """One for each seed, which also draws the split."""
        config = self.config
        if not config.conformal.seeds or not config.conformal.methods:
            raise ConfigError("conformal: no seeds or no methods came; give at least one of each.")
        return [training_of_seed(config, "seed", config.modules.student, seed) for seed in config.conformal.seeds]

    def methods(self) -> dict[str, ConformalSets]:
        """The unfitted methods, by name."""
        made = {str(name): instantiate(node) for name, node in self.config.conformal.methods.items()}
        for name, method in made.items():
            if not isinstance(method, ConformalSets):
                raise ConfigError(
                    f"conformal.methods.{name}: a {type(method).__name__} came; give conformal sets, such as LAC."
                )
        return made

    def claims(self) -> tuple[list[Claim], dict[str, float]]:
        """What is claimed of the methods, and which differences would matter."""
        return claims_of(self.config.conformal, self.methods(), SET_METRICS)

    def rehearse(self) -> None:
        """Take a step with the first classifier; build the methods and read the claims."""
        self.claims()
        first, *others = self.trainings()
        rehearse_seeds([first], others, self.resumed)

    def perform(self, folder: Path) -> dict[str, dict[str, list[float]]] | None:
        """Train, fit, score and report; every method's measures, a number a seed. None in further processes."""
        started = time.perf_counter()
        values: dict[str, dict[str, list[float]]] = {name: {key: [] for key in SET_METRICS} for name in self.methods()}
        accuracy: list[float] = []
        shown_first: dict[str, Any] = {}
        for training in self.trainings():
            trained = training.run(folder / "checkpoints", resume=self.config.resume is not None)
            data, methods = training.datamodule, self.methods()
            logits, target = predict_logits(trained.network, data.test), data.test.target
            accuracy.append((logits.argmax(dim=-1) == target).double().mean().item())
            for name, method in methods.items():
                method.fit(predict_logits(trained.network, data.val), data.val.target)
                for metric, value in set_measures(method, logits, target).items():
                    values[name][metric].append(value)
            shown_first = shown_first or {"methods": methods, "logits": logits, "target": target, "data": data}
        if not first_process():
            return None
        seconds = time.perf_counter() - started
        page = self._page(values, accuracy, seconds, **shown_first)
        page.write(folder / "report")
        page.show(seconds, folder / "report")
        return values

    def _page(
        self,
        values: Mapping[str, Mapping[str, Sequence[float]]],
        accuracy: Sequence[float],
        seconds: float,
        *,
        methods: Mapping[str, ConformalSets],
        logits: Float[Tensor, "rows classes"],
        target: Int[Tensor, " rows"],
        data: Any,
    ) -> Page:
        claims, margins = self.claims()
        judged = judged_claims(claims, values, margins)
        rows = [
            [name, *(spread(seed_interval(numbers[metric]), metric) for metric in SET_METRICS)]
            for name, numbers in values.items()
        ]
        note = self._note(accuracy, len(data.val.target), len(target))
        return Page(
            title=f"Conformal sets on {data.name}, seeds {', '.join(map(str, self.config.conformal.seeds))}",
            command=self.command,
            body=[
                Table(["", *(shown(metric).name for metric in SET_METRICS)], rows),
                note,
                "\n".join(one.markdown() for one in judged),
                "![coverage](coverage.png)",
            ],
            said=[note, *map(str, judged)],
            numbers={
                "seconds": seconds,
                "values": values,
                "accuracy": accuracy,
                "claims": [one.plain() for one in judged],
            },
            settings=plain_settings(self.config),
            figures={"coverage.png": lambda: coverage_against_alpha(methods, logits, target)},
        )

    def _note(self, accuracy: Sequence[float], fitted: int, tested: int) -> str:
        seeds, alpha = len(accuracy), float(self.config.conformal.alpha)
        return (
            f"{seeds} seed{'s' * (seeds > 1)}, each with its own split: means and Student's 95 % intervals. "
            f"{100 * (1 - alpha):g} % were asked for; fitted to {fitted:,} validation rows, scored on {tested:,} test "
            f"rows; the classifier is right in {spread(seed_interval(accuracy), 'accuracy')} %. Hard rows are the "
            "fifth whose likeliest class has the least probability; a class, or a size of sets, counts by itself from "
            "20 rows on. The picture is of the first seed."
        )


def set_measures(
    fitted: ConformalSets, logits: Float[Tensor, "rows classes"], target: Int[Tensor, " rows"]
) -> dict[str, float]:
    """The measures of a fitted method's sets on test rows, by the names of `SET_METRICS`."""
    sets = fitted(logits, uniforms=fitted.uniforms_of(len(target)))
    metric = PredictionSetMetrics(sets.shape[-1], fitted.alpha, sync_on_compute=False)
    metric.update(sets, target)
    confidence = torch.softmax(logits.double(), dim=-1).amax(dim=-1)
    hard = confidence.argsort()[: max(round(_HARD * len(target)), 1)]
    found = {**metric.compute(), "hard_coverage": set_coverage(sets[hard], target[hard])}
    return {name: float(found[name]) for name in SET_METRICS}
