"""The types of the plain values at the top of the primary configurations in ``conf/``."""

from typing import Literal

Weights = Literal["last", "best"]


class TrainSettings:
    """Of ``conf/train.yaml``."""

    seed: int
    teacher_seed: int
    teacher_weights: str | None
    teacher_cache: str | int | None
    teacher_cache_temperature: float
    weights: Weights
    threads: int | None
    deterministic: bool
    debug: bool
    optimized_metric: str | None
    resume: str | None
    output: str
    cache: str | None
    allowed_targets: list[str]


class CompareSettings(TrainSettings):
    """Of ``conf/compare.yaml``."""

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
    stacked: bool
    columns: list[str]
    untested: list[str]
    caveat: str
    results: str | None
    stale: bool


class CalibrateSettings:
    """Of ``conf/calibrate.yaml``."""

    logits: str | None
    test_logits: str | None
    fit_fraction: float
    checkpoint: str | None
    num_bins: int
    resamples: int
    level: float
    seed: int
    threads: int | None
    debug: bool
    output: str


# By the name of the primary configuration, which is that of its recipe.
SETTINGS: dict[str, type] = {"train": TrainSettings, "compare": CompareSettings, "calibrate": CalibrateSettings}
