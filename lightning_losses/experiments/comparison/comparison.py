"""Compares objectives: trains every run that has no result yet, and writes the report of all."""

import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from lightning_losses.data import ImageData
from lightning_losses.environment.cache_folder import cache_folder
from lightning_losses.environment.machine import measured_with
from lightning_losses.experiments.comparison.comparison_plan import Plan, Planned, check_same_samples, plan
from lightning_losses.experiments.comparison.comparison_report import Comparison
from lightning_losses.experiments.comparison.learning_rates import LearningRates
from lightning_losses.experiments.comparison.runner import INITIAL, Runner, share_data, student_experiment
from lightning_losses.experiments.comparison.shown_numbers import METRICS, TASK_METRICS
from lightning_losses.experiments.comparison.tuning import Chosen, Tuning, check_tuning, tune, tuned_plan
from lightning_losses.experiments.config.check_config import ConfigError, check_writable, nearest, runs_again
from lightning_losses.experiments.config.check_overrides import check_overrides
from lightning_losses.experiments.config.settings import TrainSettings
from lightning_losses.experiments.evidence.claims import GUARDS, Claim, Difference
from lightning_losses.experiments.kinds.language_models import LanguageModelling
from lightning_losses.experiments.launch import Experiment
from lightning_losses.experiments.loggers.loggers import check_logger, log_folder, plain_settings


class ObjectiveComparison(Experiment):
    """Every objective in every setting with every seed, one run after another in this process.

    The result of a run is kept as soon as the run is finished, under a hash of its whole configuration, its data, its
    teacher and their code. An interrupted comparison therefore continues when it is started again, and an edit of one
    loss repeats only the runs of that loss. A run that fails is reported, and the others continue.
    """

    no_sweep = "a sweep of comparisons has no table of its own; leave out -m, and name settings=[...]."

    def rehearse(self) -> None:
        """Check all overrides; take a step of every objective in the first setting, of the first one in all.

        The needs of the report are checked too: columns, claims, the folder of results, and the logger.

        Raises:
            ConfigError: as `plan` raises it; runs that can't be compared; an unknown column or metric of a claim; a
                folder that can't be written to.
            ModuleNotFoundError: the logger's package is not installed.
        """
        if runs_again(self.config.trainer):
            raise ConfigError(
                "trainer: a comparison trains many networks and compares them in one process; use trainer=ddp_fork, or "
                "one device."
            )
        planned = plan(self.config, self.overrides)
        if (tuning := Tuning.read(self.config, planned)) is not None:
            check_tuning(planned, tuning)
        first = next(iter(planned.settings)), next(iter(planned.runs))
        tried = [
            one
            for one in planned.planned
            if one.seed == planned.seeds[0] and (one.setting == first[0] or one.run == first[1])
        ]
        configs = []
        for one in tried:
            try:
                configs += check_overrides("train", one.overrides, TrainSettings)
            except ConfigError as error:
                raise ConfigError(f"{one.setting + ', ' if one.setting else ''}{one.run}: {error}") from None
        check_same_samples(planned)
        data: dict[str, ImageData] = {}
        for config in configs:
            experiment = student_experiment(config)
            if isinstance(experiment, LanguageModelling) and not planned.learning_rates:
                raise ConfigError(
                    "a comparison of language models is one over learning rates; give learning_rates=[0.001,0.01], or "
                    "train the models by recipes/train.py."
                )
            student = experiment.trainings()["student"]
            for training in (student.teacher, student):
                if training is not None:
                    # Each run has the data of the one before.
                    share_data(training, data, most=2)
            student.rehearse()
        _looks(self.config)
        self._of(planned, {}).judged()
        for key, name in (("results", "results"), ("cache", "networks")):
            check_writable(key, Path(self.config[key] or cache_folder() / name))
        check_logger(self.config)

    def perform(self, folder: Path) -> Comparison:
        """Compare, and leave with code 1 if a run broke, or all diverged."""
        comparison = self.compare(folder)
        if comparison.broken:
            sys.exit(1)
        return comparison

    def compare(self, folder: Path) -> Comparison:
        """Train all runs without a result, and write the report into the run's folder.

        Raises:
            ConfigError: as `plan` raises it; a claim about an unknown run or metric.
        """
        started = time.perf_counter()
        config = self.config
        planned = plan(config, self.overrides)
        tuning, chosen = Tuning.read(config, planned), {}
        if tuning is not None:
            chosen = tune(config, folder, planned, tuning)
            planned = tuned_plan(planned, chosen)
        for look in _looks(config):
            now = planned.first(look)
            runner = Runner(config, folder, now)
            runner.run_all()
            broken = runner.broken
            diverged = all(math.isnan(values["nll"]) for values in runner.values.values())
            if planned.learning_rates and diverged and not broken:
                broken = ["every run diverged at every learning rate; give smaller ones"]
            comparison = self._of(
                now,
                runner.values,
                broken=broken,
                stale=runner.stale,
                one_by_one=runner.one_by_one,
                tuned=_tuned(chosen),
                seconds=time.perf_counter() - started,
            )
            if all(one.verdict.word != "inconclusive" for one in comparison.judged()):
                break
        page = comparison.page()
        page.write(folder / "report")
        over_rates = comparison.learning_rates
        log_folder(config, folder, {} if over_rates is None else over_rates.scalars())
        page.show(comparison.seconds, folder / "report")
        return comparison

    def _of(self, planned: Plan, values: Mapping[Planned, Mapping[str, float]], **progress: Any) -> Comparison:
        """What the configuration makes of runs' numbers, which may be none yet."""
        config, settings, over_rates = self.config, planned.settings, None
        claims = [Claim.read(node) for node in OmegaConf.to_container(config.claims, resolve=True)]  # type: ignore[union-attr, arg-type]
        if planned.learning_rates:
            settings, over_rates = {"": ""}, _over_learning_rates(planned, values)
        return Comparison(
            title=str(config.title),
            command=self.command,
            settings=settings,
            runs=planned.runs,
            baseline=planned.baseline,
            seeds=planned.seeds,
            values=_by_metric(planned, values, _metrics(config)) if over_rates is None else {"": over_rates.summary()},
            columns=tuple(map(str, config.columns)),
            claims=tuple(claims),
            margins={str(metric): float(margin) for metric, margin in config.margins.items()},
            guards=_guards(config),
            looks=tuple(config.looks or ()),
            made_with=measured_with(),
            untested=tuple(map(str, config.untested)),
            caveat=str(config.caveat).strip(),
            config=plain_settings(config),
            learning_rates=over_rates,
            **progress,
        )


def _looks(config: DictConfig) -> list[int]:
    """After how many seeds claims are judged: the planned looks up to `seeds`.

    Raises:
        ConfigError: more than two looks, or a second one that is not after twice as many seeds as the first.
    """
    looks = config.looks
    # Without any planned, all seeds are one look.
    looks = list(looks) if isinstance(looks, ListConfig) else [] if looks is None else looks
    if not isinstance(looks, list) or not all(isinstance(look, int) for look in looks):
        raise ConfigError(
            f"looks={looks!r} came; give a list of numbers of seeds, such as looks=[5,10], or null for one look at all."
        )
    if looks and (len(looks) > 2 or looks[0] < 3 or looks[1:] not in ([], [2 * looks[0]])):
        raise ConfigError(
            f"looks={looks} came; give a number of seeds of at least 3, or two, the second twice the first."
        )
    return [look for look in looks if look <= config.seeds] or [int(config.seeds)]


def _guards(config: DictConfig) -> dict[str, Any]:
    node = {} if config.guards is None else OmegaConf.to_container(config.guards, resolve=True)
    assert isinstance(node, dict)
    guards = {str(name): asked for name, asked in node.items() if asked is not None}
    for name, asked in guards.items():
        if name not in GUARDS:
            raise ConfigError(f"guards: there is no {name!r}; {nearest(name, GUARDS)}")
        number = isinstance(asked, int | float) and not isinstance(asked, bool)
        if name == "control":
            try:
                Difference(**asked)
            except TypeError:
                raise ConfigError(
                    f"guards.control={asked} came; give run, than, metric and shows, as a claim does."
                ) from None
        elif not number:
            raise ConfigError(f"guards.{name}={asked!r} came; give a number, such as 0.1 for 10 points.")
    return guards


def _tuned(chosen: Mapping[tuple[str, str], Chosen]) -> dict[str, dict[str, dict[str, Any]]]:
    """The tuned values by setting and run, in the form of the report."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for (setting, run), one in chosen.items():
        found.setdefault(setting, {})[run] = {
            "learning_rate": one.candidate.learning_rate,
            "parameter": one.candidate.parameter,
            "score": one.score,
            "tried": one.tried,
            "at_edge": one.at_edge,
            "by_rate": {f"{rate:g}": score for rate, score in one.by_rate.items()},
        }
    return found


def _metrics(config: DictConfig) -> tuple[str, ...]:
    """What runs are measured by: also as regressions or by their many labels, if a column shows that."""
    return METRICS + (TASK_METRICS if set(config.columns) & set(TASK_METRICS) else ())


def _by_metric(
    planned: Plan, values: Mapping[Planned, Mapping[str, float]], metrics: Sequence[str]
) -> dict[str, dict[str, dict[str, list[float]]]]:
    """By setting, run and metric, a number a seed."""
    found = {(one.setting, one.run, one.seed): values.get(one, {}) for one in planned.planned}
    return {
        setting: {
            run: {
                metric: [found[setting, run, seed].get(metric, math.nan) for seed in planned.seeds]
                for metric in metrics
            }
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
