"""Chooses the next trial's parameters: along a grid, at random, or by Optuna from what was found."""

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
    """A trial to run: its parameters, and the shares in [0, 1] that a search which learns drew them with."""

    parameters: dict[str, Any]
    shares: dict[str, float]


Search = Callable[[int, Sequence[Trial]], Proposal | None]


def make_search(sweep: Sweep, seed: int) -> Search:
    """What gives the proposal of a trial's number, from the trials before; None when there are no more.

    Each draw depends on the seed, the number and the trials so far alone, so that a sweep which was interrupted goes
    on as it would have.

    Raises:
        ConfigError: a search that learns, without Optuna.
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
    """One step of a tree-structured Parzen estimator over the quantiles of the parameters in force.

    Over quantiles every distribution is uniform: what is drawn before anything was learnt is W&B's distribution. A
    list's value is drawn by its place. The study is told of the trials so far anew each time, so that nothing but the
    journal has to survive.
    """
    assert sweep.metric is not None
    with warnings.catch_warnings():
        # Waiting trials count as bad ones, so that parallel ones spread: an option that Optuna calls experimental.
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
    """The parameters of an Optuna trial; the choice first, then those that belong to what it chose."""
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
    """What the study is told of a trial: its value, or of a failed one what the sweep says stands for it."""
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
            # Optuna 2, which Hydra's sweeper wants, imports a name that SQLAlchemy has moved.
            warnings.simplefilter("ignore")
            import optuna
            from optuna.logging import set_verbosity
    except ModuleNotFoundError:
        raise ConfigError("method bayes is Optuna's here: pip install 'lightning-losses[sweeps]'.") from None
    set_verbosity(logging.WARNING)
    return optuna
