"""Compare objectives: train them with several seeds, and end in tables, figures and tests of significance.

    python recipes/compare.py objectives=[ce,kd,nkd,sinkd,bdkd] seeds=5 data=mnist5k
    python recipes/compare.py objectives=[ce,kd,"warm KD: kd objective.terms.kd.loss.temperature=8"] data=digits
    python recipes/compare.py objectives=[ce,kd] learning_rates=[0.001,0.01,0.1] data=digits
    python recipes/compare.py comparison=distillation_digits

Whatever recipes/train.py takes can be given too, and holds for every run. A finished run is not run again: started
again, an interrupted comparison goes on. `--help` lists the choices and the whole configuration.
"""

import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from lightning_losses.experiments.comparison import comparison
from lightning_losses.experiments.comparison.comparison_plan import plan
from lightning_losses.experiments.config.check_config import ConfigError
from lightning_losses.experiments.config.check_overrides import check_overrides
from lightning_losses.experiments.launch import launch, overrides
from lightning_losses.experiments.training.processes import runs_again
from lightning_losses.recipes.train import Settings as TrainSettings


class Settings(TrainSettings):
    """The types of the configuration's plain values."""

    title: str
    objectives: list[str]
    baseline: str | None
    seeds: int
    common: list[str]
    settings: list[str]
    learning_rates: list[float] | None
    split_per_seed: bool
    teacher_per_seed: bool
    cached_logits: bool
    columns: list[str]
    untested: list[str]
    caveat: str
    results: str | None
    stale: bool


def rehearse(config: DictConfig) -> None:
    """Read every run's words, and take a step of every objective, so that what can't work is known at once."""
    if {"-m", "--multirun"} & set(sys.argv):
        raise ConfigError("a sweep of comparisons has no table of its own; leave out -m, and name settings=[...].")
    if runs_again(config.trainer):
        raise ConfigError(
            "trainer: a comparison trains many networks and compares them in one process; use trainer=ddp_fork, or one "
            "device."
        )
    planned = plan(config, overrides())
    first, first_run = next(iter(planned.settings)), next(iter(planned.runs))
    for one in planned.planned:
        if one.seed == planned.seeds[0] and (one.setting == first or one.run == first_run):
            try:
                check_overrides("train", one.overrides, TrainSettings)
            except ConfigError as error:
                raise ConfigError(f"{one.setting + ', ' if one.setting else ''}{one.run}: {error}") from None
    comparison.rehearse(config, overrides())


def compare(config: DictConfig, folder: Path) -> Any:
    """Train what has no result yet, and write the report."""
    found = comparison.compare(config, folder, overrides())
    if found.broken:
        sys.exit(1)
    return found


def main() -> None:
    """Start from the command line."""
    launch(compare, rehearse, config_name="compare", schema=Settings)


if __name__ == "__main__":
    main()
