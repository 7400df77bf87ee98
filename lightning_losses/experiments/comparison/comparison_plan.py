"""The runs of a comparison: every objective in every setting with every seed, as overrides of the train recipe."""

import copy
import functools
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any

from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf

from lightning_losses.experiments.config.check_config import ConfigError, nearest
from lightning_losses.experiments.config.check_overrides import CONFIG_MODULE, apart
from lightning_losses.experiments.config.instantiate import instantiate

# Keys of conf/compare.yaml that the train recipe doesn't have, or that are the comparison's alone.
OWN = (
    "resume", "output", "allowed_targets",
    "comparison", "title", "objectives", "baseline", "seeds", "common", "settings", "learning_rates", "tuning",
    "split_per_seed",
    "teacher_per_seed", "cached_logits", "stacked", "columns", "claims", "looks", "margins", "guards",
    "untested", "caveat", "results", "stale",
    "needs", "refused",
)  # fmt: skip
# What a step takes that only a teacher has.
_TEACHERS = ("teacher_logits", "teacher_features", "teacher_feature_maps")
# Words about these are left out where there is no teacher.
_OF_TEACHERS = ("teacher", "teacher_data", "teacher_trainer", "teacher_optimizer")
# "label: words"; a colon after an equals sign belongs to a value.
_LABEL = re.compile(r"\s*([^=]*?)\s*:(?:\s+(.*?))?\s*")


@dataclass(frozen=True)
class Planned:
    """One run of a comparison.

    Attributes:
        setting: the label of its setting; "" where there is one setting without a label.
        run: the label of its objective.
        seed: of its weights, of the order of its samples, and of what `split_per_seed` and `teacher_per_seed` say.
        words: the overrides of ``recipes/train.py`` that train the same student, without the seed's.
        by_seed: the keys that the seed sets.
    """

    setting: str
    run: str
    seed: int
    words: tuple[str, ...]
    by_seed: tuple[str, ...]

    @property
    def overrides(self) -> list[str]:
        """The words, the seed's included."""
        return [*self.words, *(f"{key}={self.seed}" for key in self.by_seed)]

    @property
    def config(self) -> DictConfig:
        """The whole configuration of the train recipe."""
        # Composed once for all seeds: it takes longer than a short training's epoch.
        config = copy.deepcopy(_composed(self.words))
        for key in self.by_seed:
            OmegaConf.update(config, key, self.seed)
        config.trainer.enable_progress_bar = False
        return config


@dataclass(frozen=True)
class Plan:
    """Every run of a comparison.

    Attributes:
        settings: words by label.
        runs: words by label, in the order of the tables.
        baseline: the label of the run that the others are compared with.
        seeds: in order.
        planned: the runs, in the order in which they are trained.
        learning_rates: by the label of its setting, where the settings are learning rates.
    """

    settings: dict[str, str]
    runs: dict[str, str]
    baseline: str
    seeds: tuple[int, ...]
    planned: tuple[Planned, ...]
    learning_rates: dict[str, float]

    def first(self, seeds: int) -> "Plan":
        """The plan of the first seeds alone."""
        kept = self.seeds[:seeds]
        return replace(self, seeds=kept, planned=tuple(one for one in self.planned if one.seed in kept))


def plan(config: DictConfig, shared: Sequence[str]) -> Plan:
    """Read what is compared from ``conf/compare.yaml``'s configuration.

    If two words set the same key, the later one counts. Their order is: the objective's needs, `common`, the setting's
    words, the command line's, the objective's own. Words about a teacher are left out for objectives without one.

    Args:
        config: composed.
        shared: the overrides of the command line; those of the comparison's own keys are left out.

    Raises:
        ConfigError: nothing to compare, a repeated label, an unknown objective, setting or baseline, an objective that
            can't be compared here, or learning rates together with settings or another learning rate.
    """
    if not isinstance(config.seeds, int) or config.seeds < 1:
        raise ConfigError(f"seeds={config.seeds!r} came; give a whole number of at least 1.")
    if not config.objectives:
        raise ConfigError("objectives: there are none; give names, as in objectives=[ce,kd].")
    runs = _labelled("objectives", config.objectives)
    rates = _rates(config, shared)
    settings = _labelled("settings", config.settings) if config.settings else {"": ""}
    settings = {label: f"optimizer.lr={rate!r}" for label, rate in rates.items()} or settings
    baseline = next(iter(runs)) if config.baseline is None else str(config.baseline)
    if baseline not in runs:
        raise ConfigError(f"baseline={baseline} came; choose one of {', '.join(runs)}.")
    for words in runs.values():
        name = words.split()[0]
        if name in config.refused:
            raise ConfigError(f"objectives: {name} can't be compared here: {str(config.refused[name]).strip()}.")
    by_seed = ["seed", *(["data.split_seed"] if config.split_per_seed else [])]
    by_seed += ["teacher_seed"] if config.teacher_per_seed else []
    given = [word for word in shared if _key(word) not in (*OWN, *by_seed)]
    seeds = tuple(range(config.seed, config.seed + config.seeds))
    # One seed of every run after the other: what an interrupted comparison has is balanced.
    planned = tuple(
        Planned(setting, run, seed, _words(config, runs[run], settings[setting], given), tuple(by_seed))
        for setting in settings
        for seed in seeds
        for run in runs
    )
    return Plan(settings, runs, baseline, seeds, planned, rates)


def check_same_samples(planned: Plan) -> None:
    """Raise ``ConfigError`` if runs of one setting have other samples or labels, and their own words don't say so."""
    first: dict[str, tuple[str, Any]] = {}
    for one in planned.first(1).planned:
        own = one.config.data
        label, data = first.setdefault(one.setting, (one.run, own))
        said = {_key(word) for run in (label, one.run) for word in shlex.split(planned.runs[run])}
        for key in _SAMPLES:
            values = [OmegaConf.select(other, key) for other in (data, own)]
            if values[0] != values[1] and f"data.{key}" not in said:
                where = f"{one.setting}, " if one.setting else ""
                raise ConfigError(
                    f"{where}data.{key}: {label} has {values[0]} and {one.run} {values[1]}, by their experiments; give "
                    f"it for all, under common or on the command line, as in data.{key}={values[0]}."
                )


def takes(config: DictConfig, names: Sequence[str]) -> bool:
    """Whether a term of the configuration's objective takes one of these tensors."""
    objective = instantiate(config.objective)
    return any(objective.needs(name) for name in names)


def _rates(config: DictConfig, shared: Sequence[str]) -> dict[str, float]:
    if config.learning_rates is None:
        return {}
    rates = [float(rate) for rate in config.learning_rates]
    if len(rates) < 2 or len(set(rates)) < len(rates) or min(rates) <= 0:
        raise ConfigError(f"learning_rates={rates} came; give two or more different ones above 0.")
    if config.settings:
        raise ConfigError("learning_rates: settings came too; give the one or the other.")
    if any(_key(word) == "optimizer.lr" for word in shared):
        raise ConfigError("learning_rates: optimizer.lr came too; leave it out.")
    return {f"{rate:g}": rate for rate in sorted(rates)}


def _words(config: DictConfig, own: str, setting: str, given: Sequence[str]) -> tuple[str, ...]:
    name, *rest = shlex.split(own)
    needs = shlex.split(str(config.needs.get(name, ""))) or [f"experiment={_experiment(name)}"]
    common = [word for line in config.common for word in shlex.split(str(line))]
    shared = [*common, *shlex.split(setting), *given]
    experiment = next((word for word in [*needs, *rest] if _key(word) == "experiment"), "experiment=distill")
    if not _composed((experiment,)).teacher:
        # What is said about a teacher holds for the objectives that have one.
        shared = [word for word in shared if _key(word).split(".")[0] not in _OF_TEACHERS]
    return last_words([*needs, f"objective={name}", *shared, *rest, "logger=none"])


def last_words(words: Sequence[str]) -> tuple[str, ...]:
    """The last of the words for each key, since Hydra takes a group only once."""
    found: dict[str, str] = {}
    for word in words:
        # What comes later also stands later.
        found.pop(_key(word), None)
        found[_key(word)] = word
    return tuple(found.values())


# What of the data decides which samples and labels there are.
_SAMPLES = (
    *("_target_", "dataset", "part", "fold", "rows", "train_rows", "val_rows", "test_rows", "labelled_rows"),
    *("label_noise", "noise_kind", "long_tail", "unseen_classes", "bag_size", "split_seed"),
)


def _key(word: str) -> str:
    return word.partition("=")[0].lstrip("+~")


@functools.cache
def _experiment(objective: str) -> str:
    """The experiment that trains an objective without an entry under `needs`."""
    folder = files(CONFIG_MODULE) / "objective"
    known = {path.name.removesuffix(".yaml"): path for path in folder.iterdir() if path.name.endswith(".yaml")}
    if objective not in known:
        raise ConfigError(f"objectives: there is no objective {objective!r}; {nearest(objective, known)}")
    # Alone: Hydra would read its own twenty files beside it.
    alone = OmegaConf.create(known[objective].read_text("utf-8"))
    built = instantiate(OmegaConf.create({"data": {"num_classes": 2}, "objective": alone}).objective)
    if built.needs("regression_target"):
        return "regress"
    if built.needs("embeddings_b"):
        return "contrastive"
    return "distill" if any(built.needs(name) for name in _TEACHERS) else "classify"


@functools.cache
def _composed(words: tuple[str, ...]) -> DictConfig:
    return _found("train", words)


def _found(name: str, words: Sequence[str]) -> DictConfig:
    # Apart from the Hydra that started this program, if one did: it holds one configuration at a time.
    with apart(), initialize_config_module(CONFIG_MODULE, version_base="1.3"):
        return compose(name, list(words))


def _labelled(name: str, lines: Sequence[Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in map(str, lines):
        match = _LABEL.fullmatch(line)
        label, words = match.groups() if match else (line, line)
        if label in found:
            raise ConfigError(f"{name}: the label {label!r} is there twice; give each one its own, before a colon.")
        found[label] = words or ""
        if name == "objectives" and not found[label]:
            raise ConfigError(f"objectives: {line!r} names no objective; give one after the colon.")
    return found
