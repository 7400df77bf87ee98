"""Reads and checks command-line overrides: one readable message that lists the choices, instead of a stack trace."""

import argparse
import ast
import functools
import importlib.resources
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from hydra import compose, version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import IConfigRepository
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from lightning_losses.experiments.config.check_logging import PARTS as LOGGING_PARTS
from lightning_losses.experiments.config.check_logging import check_logging
from lightning_losses.experiments.config.instantiate import ConfigError, allowing, check_place, leaves_folder, nearest

CONFIG_MODULE = "lightning_losses.conf"
# What Hydra itself builds of its part of the configuration: plugins, its own callback, and samplers.
_HYDRA_BUILDS = re.compile(
    r"hydra_plugins\.([a-z]\w*\.)+[A-Z]\w*(Launcher|Sweeper)"
    r"|hydra\._internal\.core_plugins\.basic_(launcher\.BasicLauncher|sweeper\.BasicSweeper)"
    r"|hydra\.experimental\.callbacks\.LogJobReturnCallback|optuna\.samplers\.\w+Sampler"
)
# What Python's logging builds of it: handlers that write to the terminal or into a file, and formatters.
_LOGGING_BUILDS = re.compile(
    r"logging\.((Stream|File|Null)Handler|handlers\.(TimedRotating|Rotating)FileHandler|Formatter)"
    r"|colorlog\.(StreamHandler|ColoredFormatter)"
)
# What is known only when a job runs: a place, a number, or a name.
_LATE = re.compile(r"\$\{hydra[.:](runtime\.(output_dir|cwd)|sweep\.dir|job\.(name|num|id|override_dirname))\}")
# No part of dots alone, which an empty override_dirname would leave.
_IN_RUN = re.compile(
    r"\$\{hydra[.:]runtime\.output_dir\}"
    r"(/(?!\.\.|(\.|\$\{hydra[.:]job\.override_dirname\})*\.(\.|\$\{hydra[.:]job\.override_dirname\})*(/|$))"
    r"(\$\{hydra[.:]job\.(name|num|id|override_dirname)\}|[\w.-])+)+"
)
_SEPARATORS = ("job.config.override_dirname.kv_sep", "job.config.override_dirname.item_sep")
# What a run's own folder decides, whatever it is told.
_OF_A_FOLDER = ("output", "resume")
# Settings that are paths, by the last part of their names; a relative one is another in each folder.
_PATHS = (
    *("cache", "checkpoint", "checkpoint_path", "dirpath", "file", "folder", "logits", "path", "results", "save_dir"),
    # What is given by place may be a path.
    *("teacher_weights", "test_logits", "_args_"),
)
_PLAIN_INTERPOLATION = re.compile(r"\$\{[\w.]+\}")
_RESOLVER = re.compile(r"\$\{[^}]*:")
# What a folder may say of its logger: nothing that sends anything, nor to whose account.
_OF_A_LOGGER = (
    *("_target_", "name", "group", "project", "experiment_name", "job_type", "tags", "notes", "offline", "log_model"),
    *("save_dir", "sub_dir", "prefix", "log_graph", "default_hp_metric", "flush_logs_every_n_steps"),
)
_QUIET_LOGGERS = (
    *("lightning_losses.experiments.loggers.wandb_run.WandbRun", "lightning.pytorch.loggers.CSVLogger"),
    *("lightning_losses.experiments.loggers.mlflow_run.MLflowRun", "lightning.pytorch.loggers.TensorBoardLogger"),
)
_LOGGER_GROUPS = ("csv", "mlflow", "none", "tensorboard", "wandb")
# What runs commands, or decides what other programs run.
_COMMANDS = (
    *("job.env_set", "searchpath", "launcher.setup", "launcher.additional_parameters"),
    # A sweep's values become a job's overrides, and those may say anything.
    *("mode", "sweeper.params", "sweeper.custom_search_space", "sweeper.storage"),
)


def plain_overrides(arguments: Sequence[str]) -> list[str]:
    """Overrides with dictionaries as dotted names and None as null; values that aren't Python literals stay.

    W&B's agent writes a nested parameter as ``optimizer={'lr': 0.01}``, which Hydra can't read, and a null as ``None``,
    which Hydra reads as a text; its macro ``${args}`` adds hyphens in front.

    Example:
        >>> plain_overrides(["optimizer={'lr': 0.01, 'momentum': None}", "--seed=1", "-m"])
        ['optimizer.lr=0.01', 'optimizer.momentum=null', 'seed=1', '-m']
    """
    options = {option for action in get_args_parser()._actions for option in action.option_strings}
    bare = (
        word.removeprefix("--") if _is_pair(word) and word.partition("=")[0] not in options else word
        for word in arguments
    )
    return [line for word in bare for line in _words(word)]


def _is_pair(word: str) -> bool:
    """Whether it is ``--key=value``."""
    return word.startswith("--") and "=" in word


def parse_options(words: Sequence[str]) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    """Hydra's parser, and a command line's options and overrides, in any order.

    Raises:
        ConfigError: an unknown option, or an option without its value.
    """
    parser = get_args_parser()
    parser.exit_on_error = False
    try:
        parsed, rest = parser.parse_known_intermixed_args(list(words))
    except argparse.ArgumentError as error:
        raise ConfigError(f"{error.argument_name}: {error.message}.") from None
    if rest:
        key = rest[0].lstrip("-").partition("=")[0]
        raise ConfigError(
            f"{rest[0]}: there is no such option; --hydra-help lists them. A setting has no hyphens: {key}=VALUE."
        )
    return parser, parsed


def _words(argument: str) -> Iterator[str]:
    key, equals, value = argument.partition("=")
    if equals and value == "None":
        yield f"{key}=null"
    elif equals and value.startswith("{'"):
        try:
            content = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            yield argument
        else:
            yield from _dotted(key, content)
    else:
        yield argument


def _dotted(key: str, value: Any) -> Iterator[str]:
    if isinstance(value, dict) and value:
        for name, item in value.items():
            yield from _dotted(f"{key}.{name}", item)
    else:
        yield f"{key}={'null' if value is None else value}"


def saved_overrides(folder: Path, given: Sequence[str]) -> list[str]:
    """The overrides that started the run of a folder, limited to those that an untrusted folder may give.

    The folder can't give options of the command line or Hydra's own settings. Its additions to the list of allowed
    targets, its resolvers, and its paths outside the folder count only if the command line gives the same key.

    Args:
        folder: the run's.
        given: the command line's words.

    Raises:
        ConfigError: the file can't be read, or gives a setting that is not allowed; the message names the line.
    """
    file = folder / ".hydra" / "overrides.yaml"
    check_links(folder)
    remedy = "write the run's overrides into it, each in a line that begins with '- '"
    if left := sorted(folder.glob("checkpoints/*/last.ckpt"), key=lambda path: path.stat().st_mtime):
        remedy += f"; the last good state is {left[-1]}"
    try:
        node = yaml.compose(file.read_text(), Loader=yaml.SafeLoader)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{file} can't be read ({' '.join(str(error).split())[:200]}); {remedy}.") from None
    entries = [] if node is None else node.value
    if not (isinstance(entries, list) and (node is None or node.id == "sequence")):
        raise ConfigError(f"{file} is no list; {remedy}.")
    keys = {override.key_or_group for override in _parsed(_pairs(given))}
    lines = []
    for entry in entries:
        where = f"{file}, line {entry.start_mark.line + 1}"
        if not isinstance(entry, yaml.ScalarNode) or not entry.tag.startswith("tag:yaml.org,2002:"):
            raise ConfigError(f"{where}: an override is a text, key=value; take this line out.")
        try:
            override = OverridesParser.create().parse_override(entry.value)
        except HydraException:
            raise ConfigError(
                f"{where}: {entry.value} is no override, key=value; take it out, and give options of the command line "
                "after resume=."
            ) from None
        if override.key_or_group in _OF_A_FOLDER and not override.package:
            continue
        if _is_hydras(override) or override.is_sweep_override():
            raise ConfigError(f"{where}: {entry.value} may not come from a run's folder; take it out.")
        if not _reaches_out(folder, override):
            lines.append(entry.value)
        elif override.key_or_group not in keys:
            raise ConfigError(
                f"{where}: {entry.value} reaches out of the run's folder; if you trust it, write it after resume= too."
            )
    return lines


def check_own_folder(folder: Path, given: Sequence[str]) -> None:
    """Refuse a command line that resumes a run and names another folder, in which it would not go on.

    Raises:
        ConfigError: ``output``, or a ``hydra.run.dir`` that is not the run's folder.
    """
    for override in _parsed(_pairs(given)):
        key, value = override.key_or_group, str(override.value()).strip("'\"")
        other = key == "hydra.run.dir" and Path(value).expanduser().resolve() != folder.resolve()
        if not override.package and (other or key == "output"):
            raise ConfigError(
                f"{override.input_line}: resume={folder} came too, and a run goes on in its folder; leave {key} out."
            )


def to_repeat(folder: Path, overrides: Sequence[str]) -> list[str]:
    """The words of a command line that `saved_overrides` accepts from the command line only."""
    return [
        str(override.input_line)
        for override in _parsed(plain_overrides(_pairs(overrides)))
        if override.key_or_group not in _OF_A_FOLDER and _reaches_out(folder, override)
    ]


def _pairs(words: Sequence[str]) -> list[str]:
    """The words of a command line without its options and their values."""
    return [word for word in words if "=" in word and not word.startswith("-")]


def check_links(folder: Path) -> None:
    """Raise `ConfigError` for a pipe in a folder, or for a link through which files would be written outside of it."""
    home = folder.resolve()
    for place, folders, files in os.walk(folder):
        if Path(place).relative_to(folder).parts[:1] == ("wandb",):
            # W&B links its logs to its own cache; nothing is read from there, and what is written has a new name.
            continue
        for name in (*folders, *files):
            path = Path(place) / name
            if path.is_symlink() and not path.resolve().is_relative_to(home):
                raise ConfigError(
                    f"{path} is a link to {path.resolve()}, outside of the run's folder; put there what it links to."
                )
            if path.exists() and not (path.is_file() or path.is_dir()):
                # To open a pipe would wait for ever.
                raise ConfigError(f"{path} is no plain file; remove it, or put it back from a copy.")


def _is_hydras(override: Override) -> bool:
    home = re.split(r"[./]", override.key_or_group)[0]
    return home == "hydra" or _is_elsewhere(override.package or "")


def _is_elsewhere(package: str) -> bool:
    """Whether a package places a group at a key that only the command line may set."""
    parts = re.split(r"[./]", package)
    return parts[0] in ("hydra", "allowed_targets", "resume") or any(part.startswith("_") for part in parts)


def _reaches_out(folder: Path, override: Override) -> bool:
    """Whether an override adds allowed targets, uses a resolver, or names a path outside of a folder."""
    key = override.key_or_group
    if key.partition(".")[0] == "allowed_targets" or _RESOLVER.search(str(override.input_line)):
        return True
    if override.is_sweep_override() or override.is_delete():
        return False
    if _sends(override):
        return True
    for name, text in _texts(key.rpartition(".")[2], override.value()):
        # Another key's value is looked at by itself.
        if (leaves_folder(_PLAIN_INTERPOLATION.sub("x", text)) or name in _PATHS) and not _is_within(folder, text):
            return True
    return False


def _sends(override: Override) -> bool:
    """Whether an override of a folder would make a logger send data, or choose the account that receives them."""
    key = override.key_or_group
    value: Any = override.value()
    first, _, name = key.partition(".")
    if first != "logger":
        # A logger anywhere else is none that a run has by itself.
        home = "lightning.pytorch.loggers", "lightning_losses.experiments.loggers", "lightning.fabric.loggers"
        return (override.package or "").partition(".")[0] == "logger" or any(
            text.startswith(home) for _, text in _texts(key, value)
        )
    if not name and not isinstance(value, dict):
        return bool(override.package) or value not in (None, *_LOGGER_GROUPS)
    given = {name: value} if name else value
    return any(
        key not in _OF_A_LOGGER
        or (key == "offline" and item not in (True, None))
        or (key == "log_model" and item not in (False, None))
        or (key == "_target_" and item not in _QUIET_LOGGERS)
        for key, item in given.items()
    )


def _is_within(folder: Path, place: str) -> bool:
    try:
        return Path(place).expanduser().resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):
        # No name that a system takes, or the home of nobody.
        return False


def _texts(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """The texts in a value, each with its key."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _texts(str(key), item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(name, item)
    elif isinstance(value, str):
        yield name, value


def check_overrides(
    config_name: str,
    arguments: Sequence[str],
    schema: type,
    *,
    multirun: bool = False,
    config_dir: str | None = None,
) -> list[DictConfig]:
    """Compose the configurations of the jobs that these overrides start, and raise `ConfigError` if one can't run.

    For a sweep, each value is tried once, with all other keys at their first value.

    Args:
        config_name: the primary configuration.
        arguments: overrides as they came from the command line.
        schema: the types of the top level's plain values.
        multirun: whether several values of one key are allowed.
        config_dir: a folder with further configurations.

    Returns:
        The jobs' configurations.
    """
    overrides = _parsed(arguments)
    for override in overrides:
        if override.key_or_group in ("hydra.run.dir", "hydra.sweep.dir") and not override.is_sweep_override():
            check_place(override.key_or_group, override.value())
    for override in filter(_has_values, overrides):
        if not list(override.sweep_string_iterator()):
            raise ConfigError(f"{override.input_line}: there is no value in it; give at least one.")
    if not multirun and (sweeps := [override.input_line for override in overrides if override.is_sweep_override()]):
        raise ConfigError(f"{sweeps[0]}: several values are a sweep; add -m (--multirun).")
    with _configurations(config_dir), allowing(allowed_targets(arguments)):
        return [
            _checked(config_name, OverridesParser.create().parse_overrides(job), schema) for job in _jobs(overrides)
        ]


def check_hydra(config_name: str, arguments: Sequence[str], *, config_dir: str | None = None) -> None:
    """Raise `ConfigError` if Hydra or Python's logging would build a class from these overrides that is not allowed."""
    with _configurations(config_dir):
        for job in _jobs(_parsed(arguments)):
            _compose(config_name, job)


def shown_config(config_name: str, arguments: Sequence[str], *, config_dir: str | None = None) -> DictConfig:
    """The configuration of these overrides, with interpolations, at the first value of each sweep; nothing is built.

    Raises:
        ConfigError: it can't be composed.
    """
    with _configurations(config_dir):
        return _compose(config_name, next(_jobs(_parsed(arguments))))


class FolderSetting(NamedTuple):
    """One of Hydra's folders from a configuration, and whether its name contains the time."""

    place: str
    by_time: bool


def folder_setting(
    key: str, config_name: str, arguments: Sequence[str], *, config_dir: str | None = None
) -> FolderSetting:
    """The folder of a run or a sweep.

    Args:
        key: ``hydra.run.dir`` or ``hydra.sweep.dir``.
        config_name: the primary configuration.
        arguments: overrides as they came from the command line.
        config_dir: a folder with further configurations.
    """
    with _configurations(config_dir):
        config = compose(config_name, next(_jobs(_parsed(arguments))), return_hydra_config=True)
        node, _, name = key.rpartition(".")
        said = OmegaConf.to_container(OmegaConf.select(config, node), resolve=False)
        assert isinstance(said, dict)
        return FolderSetting(str(OmegaConf.select(config, key)), "${now:" in str(said[name]))


def allowed_targets(arguments: Sequence[str]) -> list[str]:
    """The names that the command line, and only the command line, adds to the allowed targets."""
    found: list[str] = []
    for override in _parsed(arguments):
        if override.key_or_group == "allowed_targets":
            value = None if override.is_sweep_override() else override.value()
            if not isinstance(value, list):
                raise ConfigError(f"{override.input_line}: give a list, such as allowed_targets=[my_package.networks].")
            found = [str(item) for item in value]
    return found


def _parsed(arguments: Sequence[str]) -> list[Override]:
    try:
        return OverridesParser.create().parse_overrides(list(arguments))
    except OverrideParseException as error:
        raise ConfigError(f"{error.override}: overrides look like key=value.") from None


@contextmanager
def _configurations(config_dir: str | None) -> Iterator[None]:
    """Within this context `compose` finds the library's configurations, and those of a folder."""
    search = create_config_search_path(f"pkg://{CONFIG_MODULE}")
    if config_dir is not None:
        if not Path(config_dir).is_dir():
            raise ConfigError(f"--config-dir {config_dir}: there is no such folder.")
        search.prepend("command-line", f"file://{Path(config_dir).absolute()}", anchor="schema")
    with apart():
        version.setbase("1.3")
        Hydra.create_main_hydra2(task_name="check", config_search_path=search)
        yield


@contextmanager
def apart() -> Iterator[None]:
    """Within this context there is no Hydra; afterwards the Hydra that started this program, if any, is restored."""
    before = Singleton.get_state()
    # Without them, the search for plugins would begin anew, which takes as long as composing a configuration.
    before["instances"][Plugins] = Plugins.instance()
    GlobalHydra.instance().clear()
    # Nor the configuration of a job that it runs, which would answer what another one asks.
    Singleton._instances.pop(HydraConfig, None)
    try:
        yield
    finally:
        Singleton.set_state(before)


def _has_values(override: Override) -> bool:
    """Whether it is a sweep over listed values, not over an interval."""
    return bool(override.is_sweep_override() and (override.is_choice_sweep() or override.is_range_sweep()))


def _jobs(overrides: list[Override]) -> Iterator[list[str]]:
    """Override lists in which every swept value occurs."""
    choices = []
    for override in overrides:
        if _has_values(override):
            choices.append([f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()])
        elif not override.is_sweep_override():
            choices.append([str(override.input_line)])
    for job in itertools.zip_longest(*choices):
        yield [value if value is not None else own[0] for value, own in zip(job, choices, strict=True)]
    if not choices:
        yield []


def _checked(config_name: str, overrides: list[Override], schema: type) -> DictConfig:
    loader = GlobalHydra.instance().config_loader()
    assert isinstance(loader, ConfigLoaderImpl)
    groups = _groups(loader.repository)
    chosen = [override for override in overrides if override.key_or_group in groups]
    values = [override for override in overrides if override.key_or_group not in groups]
    for override in chosen:
        _check_choice(loader.repository, override)
    lines = [str(override.input_line) for override in overrides]
    try:
        config = _compose(config_name, lines)
    except ConfigError:
        _check_keys(config_name, chosen, values, groups)
        raise
    if any(_is_free(override) or override.value() == {} for override in values):
        _check_keys(config_name, chosen, values, groups)
    if list(config.get("allowed_targets") or []) != allowed_targets(lines):
        raise ConfigError("allowed_targets: a configuration file extends it; only the command line may.")
    # Here, so that what is said of a wrong name, and what is only shown, waits for no torch.
    from lightning_losses.experiments.config.check_config import check_config

    check_config(config, schema)
    return config


def _groups(repository: IConfigRepository, parent: str = "") -> set[str]:
    # The loader's own method copies the repository each time.
    names = repository.get_group_options(parent, ObjectType.GROUP)
    paths = {f"{parent}/{name}" if parent else name for name in names}
    return paths.union(*(_groups(repository, path) for path in paths if path.split("/")[0] != "hydra"))


def _check_choice(repository: IConfigRepository, override: Override) -> None:
    value, options = override.value(), repository.get_group_options(override.key_or_group)
    if not isinstance(value, (str, int, float)) and value is not None and not override.is_delete():
        raise ConfigError(f"{override.input_line}: give one of its names: {', '.join(options)}.")
    missing = isinstance(value, (str, int, float)) and str(value) not in options
    if missing and override.key_or_group == "experiment" and value in repository.get_group_options("comparison"):
        raise ConfigError(
            f"{override.input_line}: it is a comparison; python recipes/compare.py comparison={value} makes it."
        )
    if value is None and not override.is_delete():
        key = override.key_or_group
        raise ConfigError(f"{override.input_line}: choose one of {', '.join(options)}, or take it out by ~{key}.")
    if missing:
        raise ConfigError(
            f"{override.input_line}: there is no {override.key_or_group} '{value}'; {nearest(str(value), options)}"
        )


def _is_free(override: Override) -> bool:
    """Whether the key itself may be missing because it is added or removed; its parent must exist."""
    return bool(override.is_add() or override.is_force_add() or override.is_delete())


def _check_keys(config_name: str, chosen: list[Override], values: list[Override], groups: set[str]) -> None:
    """Raise for the first key that is missing in the chosen parts, before any value is set."""
    base = _compose(config_name, [str(override.input_line) for override in chosen])
    for override in values:
        _check_key(base, override, groups)


def _check_key(base: DictConfig, override: Override, groups: set[str]) -> None:
    key = override.key_or_group
    if key.split(".")[0].split("/")[0] == "hydra":
        return
    if not key:
        raise ConfigError(f"{override.input_line}: overrides look like key=value.")
    node: object = base
    for depth, part in enumerate(key.split(".")[:1] if _is_free(override) else key.split(".")):
        if not isinstance(node, DictConfig):
            return
        if part not in node:
            above = ".".join(key.split(".")[:depth])
            known = {str(name) for name in node} | (groups - {"hydra"} if depth == 0 else set())
            if not known:
                raise ConfigError(f"{override.input_line}: {above} is empty; add it by +{key}.")
            raise ConfigError(
                f"{override.input_line}: there is no '{part}' in {above or 'the configuration'}; {nearest(part, known)}"
            )
        node = node._get_node(part)
        if isinstance(node, DictConfig) and node._is_interpolation():
            node = node._maybe_dereference_node()
    there = OmegaConf.select(base, key, throw_on_missing=False) if override.value() == {} else None
    if isinstance(there, DictConfig) and there and not override.is_delete():
        raise ConfigError(
            f"{override.input_line}: an empty value changes nothing; take out what is there one by one, such as "
            f"~{key}.{next(iter(there))!s}."
        )


def _compose(config_name: str, overrides: list[str]) -> DictConfig:
    try:
        config = compose(config_name, overrides, return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        reasons = [str(reason).strip().splitlines()[0] for reason in (error, error.__cause__) if str(reason or "")]
        raise ConfigError("; ".join(dict.fromkeys(reasons))) from None
    except Exception as error:  # A file that is no YAML, or no configuration, can fail in any way.
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(f"a configuration can't be read ({type(error).__name__}: {reason})") from None
    given = {name for override in _parsed(overrides) for name in (override.key_or_group, override.get_key_element())}
    _check_commands(config.hydra, given)
    _check_builds("hydra", config.hydra, given)
    for part in LOGGING_PARTS:
        node = config.hydra[part]
        if not isinstance(node, DictConfig) or OmegaConf.to_container(node) != _of_hydra(part):
            check_logging(part, node, given)
    with open_dict(config):
        del config["hydra"]
    return config


@functools.cache
def _of_hydra(part: str) -> Any:
    """Hydra's own defaults, which need no check: most configurations leave them as they are."""
    file = importlib.resources.files("hydra.conf").joinpath("hydra", part, "default.yaml")
    return OmegaConf.to_container(OmegaConf.create(file.read_text()))


def _check_commands(hydra: DictConfig, given: set[str]) -> None:
    """Raise for settings of Hydra that only the command line may give, and for names that are paths.

    Args:
        hydra: that part.
        given: the keys of the command line.
    """
    for name in _COMMANDS:
        try:
            value = OmegaConf.select(hydra, name, default=None)
        except OmegaConfBaseException as error:
            raise ConfigError(f"hydra.{name}: {str(error).splitlines()[0]}") from None
        # What is missing still, "???", comes with a job.
        keys = [f"{name}.{key!s}" for key in value] if isinstance(value, DictConfig) else [name] if value else []
        if foreign := [f"hydra.{key}" for key in keys if f"hydra.{key}" not in given]:
            raise ConfigError(
                f"{foreign[0]}: a file may not set this, since it can run anything; if you trust it, write "
                f"{foreign[0]}=... on the command line."
            )
    choices = OmegaConf.select(hydra, "runtime.choices", default={})
    for choice in map(str, choices):
        group, _, package = choice.partition("@")
        if package and not group.startswith("hydra/") and _is_elsewhere(package) and choice not in given:
            raise ConfigError(
                f"{choice}: a file may not place a group there; if you trust it, write this on the command line."
            )
    for name, home in (("launcher.submitit_folder", "${hydra.sweep.dir}/"), ("sweep.subdir", "")):
        section, _, key = name.partition(".")
        said = OmegaConf.to_container(hydra[section], resolve=False)
        written = str(said.get(key) or "") if isinstance(said, dict) else ""
        try:
            place = written if written.startswith(home) and home else str(OmegaConf.select(hydra, name) or "")
        except OmegaConfBaseException:
            # `_check_builds` refuses what is more than a number or a name.
            place = written
        inner = _LATE.sub("x", place.removeprefix(home))
        if (leaves_folder(inner) or _is_led_out(hydra, written)) and f"hydra.{name}" not in given:
            raise ConfigError(
                f"hydra.{name}={place}: this leads out of the sweep's folder; give a place within, or write it on the "
                "command line."
            )
    for name in _SEPARATORS:
        value = OmegaConf.select(hydra, name, default="")
        if f"hydra.{name}" not in given and re.search(r"[/\\]|\.\.", str(value)):
            raise ConfigError(
                f"hydra.{name}={value}: a folder's name would lead elsewhere by it; give a text without / and .., or "
                "write it on the command line."
            )
    for name in ("output_subdir", "job.name", "job.id"):
        value = OmegaConf.select(hydra, name, default=None, throw_on_missing=False)
        if value is None:
            continue
        # A name stands within a path, where one of dots could lead up.
        plain = name == "output_subdir" or re.fullmatch(r"[^/\\]*[^./\\][^/\\]*", str(value))
        if leaves_folder(str(value)) or not plain:
            raise ConfigError(f"hydra.{name}={value}: this leads out of the run's folder; give a plain name.")


def _is_led_out(hydra: Any, written: str) -> bool:
    """Whether the text that Hydra builds from the overrides would lead a path out of its folder."""
    if "override_dirname" not in written:
        return False
    dirname = OmegaConf.select(hydra, "job.override_dirname", default="", throw_on_missing=False)
    return ".." in re.split(r"[/\\]", str(dirname or ""))


def _check_builds(path: str, node: Any, given: set[str], hydra: Any = None) -> None:
    """Raise for classes in Hydra's own part of the configuration that are not allowed, and for its files elsewhere."""
    hydra = node if hydra is None else hydra
    if not isinstance(node, DictConfig | ListConfig):
        return
    names: list[Any] = list(node) if isinstance(node, DictConfig) else list(range(len(node)))
    for name in names:
        where = f"{path}.{name}"
        child: Any = node._get_node(name)
        written = str(child._value())
        value: Any
        try:
            value = node[name]
        except OmegaConfBaseException:
            value = child._value()
            if "${" in _LATE.sub("", written):
                raise ConfigError(f"{where}={written}: its value is not known yet; write it out.") from None
        pattern = {"_target_": _HYDRA_BUILDS, "()": _LOGGING_BUILDS, "class": _LOGGING_BUILDS}.get(str(name))
        bad = pattern is not None and not (isinstance(value, str) and pattern.fullmatch(value))
        # Logging follows ext:// to any name that can be imported, cfg:// only within the configuration.
        external = isinstance(value, str) and "ext:" in value and value not in ("ext://sys.stdout", "ext://sys.stderr")
        # A launcher writes them into scripts.
        if isinstance(value, str) and where.startswith("hydra.launcher.") and "\n" in value and where not in given:
            raise ConfigError(f"{where}={value!r}: a launcher's values are single lines; leave out the line break.")
        if bad or external:
            raise ConfigError(f"{where}={value}: a configuration may not build this.")
        led_out = not _IN_RUN.fullmatch(written) or _is_led_out(hydra, written)
        if name == "filename" and where not in given and led_out:
            raise ConfigError(
                f"{where}={written}: a log lies in the run's folder; let it begin with ${{hydra.runtime.output_dir}}/, "
                "or name it on the command line."
            )
        _check_builds(where, value, given, hydra)
