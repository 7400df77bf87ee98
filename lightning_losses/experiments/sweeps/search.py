"""Chooses the next trial's parameters: from a grid, at random, or by Optuna from the results so far."""

import itertools
import logging
import random
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from lightning_losses.experiments.config.check_config import ConfigError
from lightning_losses.experiments.sweeps.sweep_file import CHOICE, Sweep
from lightning_losses.experiments.sweeps.trials import Trial


class Proposal(NamedTuple):
    """A trial to run: its parameters, and their quantiles in [0, 1] if the search learns."""

    parameters: dict[str, Any]
    shares: dict[str, float]


Search = Callable[[int, Sequence[Trial]], Proposal | None]


def make_search(sweep: Sweep, seed: int) -> Search:
    """A function that proposes a trial from its number and the earlier trials; it returns None when there are no more.

    Each proposal depends only on the seed, the number and the trials so far, so that an interrupted sweep continues as
    if it had not been interrupted.

    Raises:
        ConfigError: a search that learns needs Optuna, which is not installed.
    """
    if sweep.method == "grid":
        return lambda number, trials: next(
            (Proposal(point, {}) for point in itertools.islice(sweep.grid(), number, None)), None
        )
    if sweep.method == "random":
        return lambda number, trials: _random(sweep, seed, number)
    optuna = _optuna()
    return lambda number, trials: _bayes(optuna, sweep, seed, number, trials)


def _random(sweep: Sweep, seed: int, number: int) -> Proposal:
    generator = random.Random(f"{seed}/{number}")
    drawn = {name: distribution.quantile(generator.random()) for name, distribution in sweep.parameters.items()}
    return Proposal(sweep.in_force(drawn), {})


def _bayes(optuna: Any, sweep: Sweep, seed: int, number: int, trials: Sequence[Trial]) -> Proposal:
    """One step of a tree-structured Parzen estimator over the quantiles of the active parameters.

    Over quantiles every distribution is uniform, so the first samples follow W&B's distributions. The value of a list
    is chosen by its position. The study is rebuilt from the trials each time, so that only the journal has to be kept.
    """
    assert sweep.metric is not None
    with warnings.catch_warnings():
        # Running trials count as bad ones, so that parallel trials spread out; Optuna calls the option experimental.
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(seed=seed + number, constant_liar=True, n_startup_trials=5)
        study = optuna.create_study(direction=sweep.metric.goal, sampler=sampler)
        for trial in trials:
            study.enqueue_trial(trial.shares)
            told = study.ask()
            _draw(told, sweep)
            value = _value(trial, sweep, trials)
            if trial.ended and value is not None:
                study.tell(told, value)
            elif trial.ended:
                study.tell(told, state=optuna.trial.TrialState.FAIL)
        asked = study.ask()
        return Proposal(_draw(asked, sweep), dict(asked.params))


def _draw(trial: Any, sweep: Sweep) -> dict[str, Any]:
    """The parameters of an Optuna trial: the choice of the objective first, then that objective's parameters."""
    drawn: dict[str, Any] = {}
    for name, distribution in sorted(sweep.parameters.items(), key=lambda item: item[0] != CHOICE):
        if name not in sweep.in_force({**drawn, name: None}):
            continue
        if not distribution.varies:
            drawn[name] = distribution.quantile(0.0)
        elif distribution.categorical:
            places = list(range(len(distribution.options["values"])))
            drawn[name] = distribution.options["values"][trial.suggest_categorical(name, places)]
        else:
            drawn[name] = distribution.quantile(trial.suggest_float(name, 0.0, 1.0))
    return {name: drawn[name] for name in sweep.parameters if name in drawn}


def _value(trial: Trial, sweep: Sweep, trials: Sequence[Trial]) -> float | None:
    """A trial's value for the study; for a failed trial, the sweep's substitute."""
    metric = sweep.metric
    assert metric is not None
    if trial.state != "failed":
        return trial.value(metric)
    if metric.impute == "latest":
        return trial.last(metric)
    values = [value for other in trials if other.state != "failed" and (value := other.value(metric)) is not None]
    if not values:
        return None
    ordered = sorted(values, key=lambda value: metric.sign * value)
    return ordered[0 if metric.impute == "best" else -1]


def _optuna() -> Any:
    try:
        with warnings.catch_warnings():
            # Optuna 2, which Hydra's sweeper requires, imports a name that SQLAlchemy has moved.
            warnings.simplefilter("ignore")
            import optuna
            from optuna.logging import set_verbosity
    except ModuleNotFoundError:
        raise ConfigError("method bayes needs Optuna: pip install 'lightning-losses[sweeps]'.") from None
    set_verbosity(logging.WARNING)
    return optuna
