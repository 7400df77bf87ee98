"""Tunes every run of a comparison by one rule before it is compared: on seeds of its own, by a validation score."""

import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lightning_losses.experiments.comparison.comparison_plan import Plan, Planned, last_words
from lightning_losses.experiments.comparison.runner import Runner
from lightning_losses.experiments.config.check_config import ConfigError, nearest
from lightning_losses.experiments.config.check_overrides import check_overrides
from lightning_losses.experiments.config.settings import TrainSettings

# How many steps beyond the grid are tried at most.
_EXTENSIONS = 3
_KEYS = ("first_seed", "seeds", "learning_rates", "parameters", "score")
# The scores that can choose: whether more of one is better (1) or worse (-1).
_SIGNS = {
    "val_accuracy": 1, "val_nll": -1, "val_rmse": -1, "val_mean_average_precision": 1, "val_probe_accuracy": 1,
    "val_map_at_r": 1, "val_precision_at_1": 1, "val_precision_at_5": 1, "val_mrr": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Tuning:
    """The candidates: the same learning rates for every run, each with the values of one parameter of that run.

    A run without a parameter to tune has fewer candidates; the report says how many each had.

    Args:
        seeds: of the tuning, none of them one of the comparison's.
        learning_rates: above 0, rising.
        parameters: by the label of a run, one key of its own and the values that are tried; null for none.
        score: the criterion, on validation data: "val_accuracy", "val_nll", "val_rmse", "val_mean_average_precision",
            "val_probe_accuracy", "val_map_at_r", "val_precision_at_1", "val_precision_at_5" or "val_mrr".
    """

    seeds: tuple[int, ...]
    learning_rates: tuple[float, ...]
    parameters: Mapping[str, tuple[str, tuple[float, ...]]]
    score: str = "val_accuracy"

    @classmethod
    def read(cls, config: DictConfig, planned: Plan) -> "Tuning | None":
        """The settings under `tuning` in ``conf/compare.yaml``; None if there are none.

        Raises:
            ConfigError: an unknown name or run, rates that are not different numbers above 0, or seeds that the
                comparison uses too.
        """
        if not config.tuning:
            return None
        node = OmegaConf.to_container(config.tuning, resolve=True)
        assert isinstance(node, dict)
        if unknown := [str(name) for name in node if name not in _KEYS]:
            raise ConfigError(f"tuning: there is no {unknown[0]!r}; {nearest(unknown[0], _KEYS)}")
        if planned.learning_rates:
            raise ConfigError("tuning: learning_rates came too, which are compared; give the one or the other.")
        rates = sorted(_numbers("learning_rates", node.get("learning_rates") or (0.01, 0.03, 0.09)))
        if len(set(rates)) < max(len(rates), 2) or rates[0] <= 0:
            raise ConfigError(f"tuning.learning_rates={rates} came; give two or more different ones above 0.")
        first, count = node.get("first_seed", 100), node.get("seeds", 3)
        if not (isinstance(first, int) and isinstance(count, int)):
            raise ConfigError(f"tuning: first_seed={first!r} and seeds={count!r} came; give whole numbers.")
        seeds = tuple(range(first, first + count))
        if count < 1 or set(seeds) & set(planned.seeds):
            raise ConfigError(
                f"tuning: the seeds {first} to {first + count - 1} came, and the comparison's are "
                f"{planned.seeds[0]} to {planned.seeds[-1]}; give one or more that are not among these."
            )
        parameters = {}
        for label, one in (node.get("parameters") or {}).items():
            if one is None:
                # Taken away from what the file of a comparison inherits.
                continue
            if label not in planned.runs:
                raise ConfigError(f"tuning.parameters: there is no {label!r}; {nearest(str(label), planned.runs)}")
            if not isinstance(one, dict) or len(one) != 1:
                raise ConfigError(
                    f"tuning.parameters.{label}={one} came; give one key with two or more different values."
                )
            ((key, values),) = one.items()
            numbers = _numbers(f"parameters.{label}.{key}", values)
            if len(set(numbers)) < max(len(numbers), 2):
                raise ConfigError(
                    f"tuning.parameters.{label}={one} came; give one key with two or more different values."
                )
            parameters[str(label)] = str(key), tuple(sorted(numbers))
        score = str(node.get("score", cls.score))
        if score not in _SIGNS:
            raise ConfigError(f"tuning: there is no score {score!r}; {nearest(score, _SIGNS)}")
        return cls(seeds, tuple(rates), parameters, score)

    def grid(self, run: str) -> list["Candidate"]:
        """Every learning rate with every value of the run's parameter."""
        key, values = self.parameters.get(run, (None, (None,)))
        return [Candidate(rate, key, value) for rate, value in itertools.product(self.learning_rates, values)]


@dataclass(frozen=True)
class Candidate:
    """A learning rate, and a value of one parameter of the run's own, if it has one to tune."""

    learning_rate: float
    key: str | None = None
    value: float | None = None

    @property
    def words(self) -> tuple[str, ...]:
        """The overrides that set it."""
        own = () if self.key is None else (f"{self.key}={self.value:g}",)
        return (f"optimizer.lr={self.learning_rate:g}", *own)

    @property
    def parameter(self) -> str:
        """The parameter as a table shows it."""
        return "" if self.key is None else f"{self.key.rpartition('.')[2]}={self.value:g}"


@dataclass(frozen=True)
class Chosen:
    """The tuned candidate of a run.

    Attributes:
        candidate: the best one by the mean of its validation score over the tuning's seeds.
        score: that mean.
        tried: how many candidates there were.
        at_edge: whether it lies at an edge of the tried values, beyond which a better one may lie.
        by_rate: at each learning rate the best mean; infinite if every candidate failed or diverged.
    """

    candidate: Candidate
    score: float
    tried: int
    at_edge: bool
    by_rate: Mapping[float, float]


def tune(config: DictConfig, folder: Path, planned: Plan, tuning: Tuning) -> dict[tuple[str, str], Chosen]:
    """The best candidate of every run in every setting, the grid extended where the best lies at its edge.

    It is extended by a step at a time, up to three times.

    Raises:
        ConfigError: a run whose every candidate broke or diverged.
    """
    scores: dict[tuple[str, str], dict[Candidate, float]] = {}
    todo = {place: tuning.grid(place[1]) for place in itertools.product(planned.settings, planned.runs)}
    for _ in range(1 + _EXTENSIONS):
        for place, found in _scores(config, folder, planned, tuning, todo).items():
            scores.setdefault(place, {}).update(found)
        for place, found in scores.items():
            if not any(math.isfinite(score) for score in found.values()):
                raise ConfigError(f"tuning: {', '.join(filter(None, place))}: every candidate broke or diverged.")
        todo = {place: _allowed(planned, place, found) for place, found in scores.items()}
    return {place: _chosen(found, _SIGNS[tuning.score]) for place, found in scores.items()}


def tuned_plan(planned: Plan, chosen: Mapping[tuple[str, str], Chosen]) -> Plan:
    """The plan with the overrides of the chosen candidates, frozen before its seeds are trained."""
    return replace(
        planned,
        planned=tuple(
            replace(one, words=last_words([*one.words, *chosen[one.setting, one.run].candidate.words]))
            for one in planned.planned
        ),
    )


def check_tuning(planned: Plan, tuning: Tuning) -> None:
    """Raise `ConfigError` for a candidate at a corner of a run's grid that can't be run."""
    for one in planned.planned:
        if one.seed == planned.seeds[0]:
            for candidate in (tuning.grid(one.run)[0], tuning.grid(one.run)[-1]):
                words = last_words([*one.overrides, *candidate.words])
                try:
                    check_overrides("train", words, TrainSettings)
                except ConfigError as error:
                    raise ConfigError(f"tuning of {one.run}: {error}") from None


def _scores(
    config: DictConfig,
    folder: Path,
    planned: Plan,
    tuning: Tuning,
    todo: Mapping[tuple[str, str], Sequence[Candidate]],
) -> dict[tuple[str, str], dict[Candidate, float]]:
    """The mean score of every candidate, where higher is better; -inf if a seed failed or diverged."""
    base = {(one.setting, one.run): one for one in planned.planned}
    tried = {
        (place, candidate): [
            Planned(
                place[0],
                f"{place[1]}, {' '.join(candidate.words)}",
                seed,
                last_words([*base[place].words, *candidate.words]),
                base[place].by_seed,
            )
            for seed in tuning.seeds
        ]
        for place, candidates in todo.items()
        for candidate in candidates
    }
    if not tried:
        return {}
    every = tuple(itertools.chain.from_iterable(tried.values()))
    labels = {one.run: "" for one in every}
    runner = Runner(
        config, folder, replace(planned, runs=labels, seeds=tuning.seeds, planned=every), score=tuning.score
    )
    runner.run_all()
    scores: dict[tuple[str, str], dict[Candidate, float]] = {}
    for (place, candidate), runs in tried.items():
        by_seed = [runner.values.get(one, {}).get(tuning.score, math.nan) for one in runs]
        score = _SIGNS[tuning.score] * statistics.fmean(by_seed) if all(map(math.isfinite, by_seed)) else -math.inf
        scores.setdefault(place, {})[candidate] = score
    return scores


def _numbers(name: str, values: Any) -> list[float]:
    if not isinstance(values, list | tuple) or not all(isinstance(value, int | float) for value in values):
        raise ConfigError(f"tuning.{name}={values!r} came; give a list of numbers.")
    return [float(value) for value in values]


def _allowed(planned: Plan, place: tuple[str, str], found: Mapping[Candidate, float]) -> list[Candidate]:
    """The next candidates beyond the grid whose values are within their ranges."""
    (one, *_) = (one for one in planned.planned if (one.setting, one.run) == place)
    allowed, best = [], _best(found)
    for candidate in further(found, best):
        try:
            check_overrides("train", last_words([*one.overrides, *candidate.words]), TrainSettings)
        except ConfigError:
            # Beyond a range; an error that the best candidate meets too has another reason, and ends the tuning.
            check_overrides("train", last_words([*one.overrides, *best.words]), TrainSettings)
            continue
        allowed.append(candidate)
    return allowed


def further(tried: Iterable[Candidate], best: Candidate) -> list[Candidate]:
    """One step beyond the tried values, in each direction in which the best value lies at the edge."""
    rates, values = {one.learning_rate for one in tried}, {one.value for one in tried if one.value is not None}
    candidates = []
    if (rate := _beyond(sorted(rates), best.learning_rate)) is not None:
        candidates.append(replace(best, learning_rate=rate))
    if best.value is not None and (value := _beyond(sorted(values), best.value)) is not None:
        candidates.append(replace(best, value=value))
    return candidates


def _best(found: Mapping[Candidate, float]) -> Candidate:
    return max(found, key=lambda candidate: found[candidate])


def _chosen(found: Mapping[Candidate, float], sign: int) -> Chosen:
    best = _best(found)
    rates = {one.learning_rate for one in found}
    values = {one.value for one in found if one.value is not None}
    at_edge = best.learning_rate in (min(rates), max(rates))
    at_edge |= best.value is not None and best.value in (min(values), max(values))
    by_rate = {
        rate: sign * max(score for one, score in found.items() if one.learning_rate == rate) for rate in sorted(rates)
    }
    return Chosen(best, sign * found[best], len(found), at_edge, by_rate)


def _beyond(values: Sequence[float], best: float) -> float | None:
    """The next of a geometric series, if the best is the first or the last of values above 0."""
    if values[0] <= 0 or values[0] < best < values[-1]:
        return None
    before, edge = (values[-2], values[-1]) if best == values[-1] else (values[1], values[0])
    return edge * edge / before
