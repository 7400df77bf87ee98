"""Trains classifiers of some classes, and compares how well scores tell foreign data from theirs."""

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_losses.checkpoints.process_states import first_process
from lightning_losses.data import KnownClasses
from lightning_losses.experiments.comparison.judged_claims import claims_of, judged_claims
from lightning_losses.experiments.comparison.shown_numbers import shown, spread
from lightning_losses.experiments.config.check_config import ConfigError
from lightning_losses.experiments.config.instantiate import instantiate
from lightning_losses.experiments.evidence.claims import Claim
from lightning_losses.experiments.evidence.seed_interval import seed_interval
from lightning_losses.experiments.launch import Experiment
from lightning_losses.experiments.loggers.loggers import plain_settings
from lightning_losses.experiments.page import Page, Table
from lightning_losses.experiments.training.evaluation import predict_logits
from lightning_losses.experiments.training.training import Training, rehearse_seeds, training_of_seed
from lightning_losses.metrics.out_of_distribution import DetectionScores, out_of_distribution_detection
from lightning_losses.out_of_distribution import OutOfDistributionScore, fit_scores, scores_of
from lightning_losses.plots.seed_intervals import seed_intervals

MEASURES = DetectionScores._fields
AVERAGE = "average"
# Of a run: a number a seed for each measure.
Values = dict[str, dict[str, list[float]]]


class OutOfDistribution(Experiment):
    """A classifier of each seed and split, on which every score is tried against every foreign set."""

    def trainings(self) -> list[Training]:
        """One for each seed, which also draws the split."""
        settings = self.config.out_of_distribution
        if not settings.seeds or not settings.scores:
            raise ConfigError("out_of_distribution: no seeds or no scores came; give at least one of each.")
        return [training_of_seed(self.config, "seed", self.config.modules.student, seed) for seed in settings.seeds]

    def scores(self) -> dict[str, OutOfDistributionScore]:
        """The unfitted scores, by name."""
        built = {str(name): instantiate(node) for name, node in self.config.out_of_distribution.scores.items()}
        for name, score in built.items():
            if not isinstance(score, OutOfDistributionScore) or score.needs_tuning:
                raise ConfigError(
                    f"out_of_distribution.scores.{name}: a {type(score).__name__} came that is no score or needs "
                    "tuning; give scores of lightning_losses.out_of_distribution that need none."
                )
        return built

    def claims(self, sets: Iterable[str]) -> tuple[list[Claim], dict[str, float]]:
        """What is claimed of the scores, and which differences would matter."""
        runs = [run_of(score, name) for name in (AVERAGE, *sets) for score in self.scores()]
        return claims_of(self.config.out_of_distribution, runs, MEASURES)

    def rehearse(self) -> None:
        """Take a step with the first classifier, score a batch by it, and read the claims."""
        first, *others = self.trainings()
        data = known_classes(first.datamodule)
        self.claims(data.foreign_sets())
        network: Any = first.build()
        few = slice(0, 8)
        measured(
            network.network, self.scores(), data.train.__getitems__(list(range(8))), {"known": data.test.inputs[few]}
        )
        rehearse_seeds([first], others, self.resumed)

    def perform(self, folder: Path) -> Values | None:
        """Train, score and report; a score's measures on each set, a number a seed. None in further processes."""
        started = time.perf_counter()
        values: Values = {}
        accuracy: list[float] = []
        sizes: dict[str, int] = {}
        for training in self.trainings():
            trained = training.run(folder / "checkpoints", resume=self.config.resume is not None)
            data = known_classes(training.datamodule)
            logits = predict_logits(trained.network, data.test)
            accuracy.append((logits.argmax(dim=-1) == data.test.target).double().mean().item())
            sets = {name: part.inputs for name, part in data.foreign_sets().items()}
            sizes = {name: len(inputs) for name, inputs in {"known": data.test.inputs, **sets}.items()}
            of_sets = measured(trained.network, self.scores(), data.train, {"known": data.test.inputs, **sets})
            for run, numbers in detections(of_sets).items():
                for measure, value in numbers.items():
                    values.setdefault(run, {}).setdefault(measure, []).append(value)
        if not first_process():
            return None
        seconds = time.perf_counter() - started
        page = self._page(values, accuracy, sizes, str(getattr(data.source, "dataset", data.source.name)), seconds)
        page.write(folder / "report")
        page.show(seconds, folder / "report")
        return values

    def _page(
        self, values: Values, accuracy: Sequence[float], sizes: Mapping[str, int], name: str, seconds: float
    ) -> Page:
        sets = [AVERAGE, *(one for one in sizes if one != "known")]
        claims, margins = self.claims(sets[1:])
        judged = judged_claims(claims, values, margins)
        rows = [
            [score, one, *(spread(seed_interval(numbers[measure]), measure) for measure in MEASURES)]
            for one in sets
            for score in self.scores()
            for numbers in [values[run_of(score, one)]]
        ]
        panels: Any = {
            one: {score: [_percent(values[run_of(score, one)]["auroc"])] for score in self.scores()} for one in sets
        }
        note = self._note(accuracy, sizes)
        return Page(
            title=f"Foreign data beside {name}, seeds {', '.join(map(str, self.config.out_of_distribution.seeds))}",
            command=self.command,
            body=[
                Table(["score", "foreign", *(shown(measure).name for measure in MEASURES)], rows),
                note,
                "\n".join(one.markdown() for one in judged),
                "![AUROC](auroc.png)",
            ],
            said=[note, *map(str, judged)],
            numbers={
                "seconds": seconds,
                "values": values,
                "accuracy": accuracy,
                "samples": sizes,
                "claims": [one.plain() for one in judged],
            },
            settings=plain_settings(self.config),
            figures={"auroc.png": lambda: seed_intervals(panels, stages=["AUROC"], label="AUROC (%)")},
        )

    def _note(self, accuracy: Sequence[float], sizes: Mapping[str, int]) -> str:
        seeds = len(accuracy)
        foreign = ", ".join(f"{size:,} ({name})" for name, size in sizes.items() if name != "known")
        return (
            f"{seeds} seed{'s' * (seeds > 1)}, each with its own split: means and Student's 95 % intervals. "
            f"{sizes['known']:,} test samples of the classes that were trained on, of which the classifier is right in "
            f"{spread(seed_interval(accuracy), 'accuracy')} %, against foreign samples: {foreign}. FPR95 is the share "
            "of the others taken for positive where 95 % of the positive are found. Scores learn from the training "
            "split alone; nothing was chosen by foreign samples."
        )


def run_of(score: str, foreign: str) -> str:
    """The name of a score's numbers on a foreign set, as claims have it."""
    return f"{score} on {foreign}"


def known_classes(data: Any) -> KnownClasses:
    """The data, if they have foreign sets beside them.

    Raises:
        ConfigError: others; no foreign set, or one by a name that the report has for something else.
    """
    if not isinstance(data, KnownClasses):
        raise ConfigError(
            f"out_of_distribution: data of {data.name} came, which have no foreign sets; take data=known_mnist5k, or "
            "others of KnownClasses."
        )
    if taken := {"known", AVERAGE} & set(data.foreign):
        raise ConfigError(f"data.foreign.{min(taken)}: the report has another meaning for this name; rename the data.")
    if not (data.left_out or data.foreign or data.noise_rows):
        raise ConfigError("data: no foreign set came; leave classes out, or give foreign data or noise_rows.")
    return data


def measured(
    network: nn.Module, scores: Mapping[str, OutOfDistributionScore], train: Mapping[str, Tensor] | Any, sets: Any
) -> dict[str, dict[str, Tensor]]:
    """Fit scores to training samples, and score the inputs of every set; by set and score, on the host."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    inputs, target = (train["inputs"], train["target"]) if isinstance(train, Mapping) else (train.inputs, train.target)
    network.to(device)
    pairs = zip(inputs.split(256), target.split(256), strict=True)
    fit_scores(list(scores.values()), network, ((x.to(device), y.to(device)) for x, y in pairs))
    of_sets = {}
    for name, rows in sets.items():
        parts = [scores_of(scores, network, part.to(device)) for part in rows.split(256)]
        of_sets[name] = {score: torch.cat([part[score] for part in parts]).cpu() for score in scores}
    network.cpu()
    return of_sets


def detections(of_sets: Mapping[str, Mapping[str, Tensor]]) -> dict[str, dict[str, float]]:
    """The measures of each score on each foreign set, and their mean over the sets.

    Args:
        of_sets: the scores by set; "known" is that of known samples.

    Example:
        >>> sets = {"known": {"energy": torch.ones(2)}, "noise": {"energy": torch.zeros(3)}}
        >>> {run: numbers["auroc"] for run, numbers in detections(sets).items()}
        {'energy on noise': 1.0, 'energy on average': 1.0}
    """
    runs: dict[str, dict[str, float]] = {}
    foreign = [name for name in of_sets if name != "known"]
    for score, known in of_sets["known"].items():
        for name in foreign:
            rows = torch.cat([known, of_sets[name][score]])
            found = out_of_distribution_detection(rows, torch.arange(len(rows)) >= len(known))
            runs[run_of(score, name)] = {measure: float(value) for measure, value in found._asdict().items()}
        own = [runs[run_of(score, name)] for name in foreign]
        runs[run_of(score, AVERAGE)] = {key: sum(one[key] for one in own) / len(own) for key in MEASURES}
    return runs


def _percent(numbers: Sequence[float]) -> tuple[float, float, float]:
    interval = shown("auroc").within(seed_interval(numbers))
    return 100 * interval.mean, 100 * interval.low, 100 * interval.high
