"""The types of the plain values at the top of the primary configurations in ``conf/``."""

from typing import Annotated, Literal

from lightning_losses.numerics.settings import Bound, Count, Positive, Seed

Weights = Literal["last", "best"]
# More would end the process within torch, without a message.
Threads = Annotated[int, Bound(least=1, most=1024)]


class TrainSettings:
    """Of ``conf/train.yaml``."""

    seed: Seed
    teacher_seed: Seed
    teacher_weights: str | None
    teacher_cache: str | int | None
    teacher_cache_temperature: Positive
    weights: Weights
    threads: Threads | None
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
    seeds: Count
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
    fit_fraction: Annotated[float, Bound(above=0, below=1)]
    checkpoint: str | None
    num_bins: Count
    resamples: Annotated[int, Bound(least=2)]
    level: Annotated[float, Bound(above=0, below=1)]
    seed: Seed
    threads: Threads | None
    debug: bool
    output: str


# By the name of the primary configuration, which is that of its recipe.
SETTINGS: dict[str, type] = {"train": TrainSettings, "compare": CompareSettings, "calibrate": CalibrateSettings}
