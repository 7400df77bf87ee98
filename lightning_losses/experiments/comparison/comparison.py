"""Compares objectives: trains every run that has no result yet, and writes the report of all."""

import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from omegaconf import OmegaConf
from rich.console import Console

from lightning_losses.experiments.comparison.comparison_plan import Plan, Planned, plan
from lightning_losses.experiments.comparison.comparison_report import Comparison
from lightning_losses.experiments.comparison.learning_rates import LearningRates
from lightning_losses.experiments.comparison.runner import INITIAL, Runner, student_experiment
from lightning_losses.experiments.comparison.shown_numbers import METRICS
from lightning_losses.experiments.config.check_config import ConfigError, runs_again
from lightning_losses.experiments.config.check_overrides import check_overrides
from lightning_losses.experiments.config.settings import TrainSettings
from lightning_losses.experiments.evidence.claims import Claim
from lightning_losses.experiments.kinds.language_models import LanguageModelling
from lightning_losses.experiments.launch import Experiment
from lightning_losses.experiments.loggers.loggers import log_folder, plain_settings


class ObjectiveComparison(Experiment):
    """Every objective in every setting with every seed, a run after the other in this process.

    The result of a run is kept as soon as it is finished, under its whole configuration, its data, its teacher and the
    code that these lead to: an interrupted comparison started again goes on, an edit of one loss repeats the runs of
    that loss alone. A run that breaks is told, and the others go on.
    """

    no_sweep = "a sweep of comparisons has no table of its own; leave out -m, and name settings=[...]."

    def rehearse(self) -> None:
        """Check every run's words, and take a step of every objective in the first setting, of the first one in all.

        Raises:
            ConfigError: as `plan` raises it; runs that can't be compared.
        """
        if runs_again(self.config.trainer):
            raise ConfigError(
                "trainer: a comparison trains many networks and compares them in one process; use trainer=ddp_fork, or "
                "one device."
            )
        planned = plan(self.config, self.overrides)
        first = next(iter(planned.settings)), next(iter(planned.runs))
        tried = [
            one
            for one in planned.planned
            if one.seed == planned.seeds[0] and (one.setting == first[0] or one.run == first[1])
        ]
        for one in tried:
            try:
                check_overrides("train", one.overrides, TrainSettings)
            except ConfigError as error:
                raise ConfigError(f"{one.setting + ', ' if one.setting else ''}{one.run}: {error}") from None
        for one in tried:
            experiment = student_experiment(one.config)
            if isinstance(experiment, LanguageModelling) and not planned.learning_rates:
                raise ConfigError(
                    "a comparison of language models is one over learning rates; give learning_rates=[0.001,0.01], or "
                    "train the models by recipes/train.py."
                )
            experiment.trainings()["student"].rehearse()

    def perform(self, folder: Path) -> Comparison:
        """Compare, and leave with code 1 if a run broke."""
        comparison = self.compare(folder)
        if comparison.broken:
            sys.exit(1)
        return comparison

    def compare(self, folder: Path) -> Comparison:
        """Train what has no result yet, and write the report into the run's folder.

        Raises:
            ConfigError: as `plan` raises it; a claim on what there isn't.
        """
        started = time.perf_counter()
        config = self.config
        planned = plan(config, self.overrides)
        claims = [Claim.read(node) for node in OmegaConf.to_container(config.claims, resolve=True)]  # type: ignore[union-attr, arg-type]
        runner = Runner(config, folder, planned)
        broken = runner.run_all()
        settings, over_rates = planned.settings, None
        if planned.learning_rates:
            settings, over_rates = {"": ""}, _over_learning_rates(planned, runner.values)
        comparison = Comparison(
            title=str(config.title),
            command=self.command,
            settings=settings,
            runs=planned.runs,
            baseline=planned.baseline,
            seeds=planned.seeds,
            values=_by_metric(planned, runner.values) if over_rates is None else {"": over_rates.summary()},
            columns=tuple(map(str, config.columns)),
            claims=tuple(claims),
            untested=tuple(map(str, config.untested)),
            caveat=str(config.caveat).strip(),
            broken=broken,
            stale=runner.stale,
            config=plain_settings(config),
            seconds=time.perf_counter() - started,
            learning_rates=over_rates,
        )
        page = comparison.page()
        page.write(folder / "report")
        log_folder(config, folder, {} if over_rates is None else over_rates.scalars())
        page.show()
        text = f"{comparison.seconds:.0f} s. The report is in {folder / 'report'}"
        Console(soft_wrap=True, highlight=False).print(text)
        return comparison


def _by_metric(
    planned: Plan, values: Mapping[Planned, Mapping[str, float]]
) -> dict[str, dict[str, dict[str, list[float]]]]:
    """By setting, run and metric, a number a seed."""
    missing = dict.fromkeys(METRICS, math.nan)
    found = {(one.setting, one.run, one.seed): values.get(one, missing) for one in planned.planned}
    return {
        setting: {
            run: {metric: [found[setting, run, seed][metric] for seed in planned.seeds] for metric in METRICS}
            for run in planned.runs
        }
        for setting in planned.settings
    }


def _over_learning_rates(planned: Plan, values: Mapping[Planned, Mapping[str, float]]) -> LearningRates:
    """What the settings are points of, where they are learning rates."""
    one = {(one.setting, one.run, one.seed): values.get(one) for one in planned.planned}

    def seeds(setting: str, run: str, metric: str) -> list[float | None]:
        found = [one[setting, run, seed] for seed in planned.seeds]
        return [None if number is None else number[metric] for number in found]

    return LearningRates(
        tuple(planned.learning_rates.values()),
        final={run: [seeds(setting, run, "nll") for setting in planned.settings] for run in planned.runs},
        initial={run: [seeds(setting, run, INITIAL) for setting in planned.settings] for run in planned.runs},
        seconds={run: [seeds(setting, run, "seconds") for setting in planned.settings] for run in planned.runs},
    )
