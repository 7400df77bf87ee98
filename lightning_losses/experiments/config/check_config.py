"""Checks a composed configuration before anything is built: names, plain types, folders, and trainer settings."""

import inspect
import math
import os
import re
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.accelerators import CUDAAccelerator, MPSAccelerator
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.strategies import StrategyRegistry
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException
from torch import nn

from lightning_losses.environment import writable_folder
from lightning_losses.environment.library_ranges import range_of
from lightning_losses.experiments.config.instantiate import ConfigError as ConfigError
from lightning_losses.experiments.config.instantiate import check_place, check_targets, find_target, is_a
from lightning_losses.experiments.config.instantiate import nearest as nearest
from lightning_losses.losses.base import Loss
from lightning_losses.numerics.settings import Bound, Declared, settings

_PLAIN = (bool, int, float, str)
_NAMES: dict[Any, str] = {int: "an integer", float: "a number", str: "a text", bool: "true or false"}
# Lightning starts each process by forking this one, in place of running the command again.
_FORKING = ("ddp_fork", "ddp_fork_find_unused_parameters_true", "ddp_spawn", "ddp_notebook")
_FSDP1 = ("fsdp", "fsdp_cpu_offload")
# What each part of a configuration has to be, if a class builds it.
_ROLES = {
    "callbacks.*": "lightning.pytorch.Callback",
    "data": "lightning.pytorch.LightningDataModule",
    "logger": "lightning.pytorch.loggers.Logger",
    "model": "torch.nn.Module",
    "modules.*": "torch.nn.Module",
    "objective": "torch.nn.Module",
    "optimizer": "torch.optim.Optimizer",
    "teacher": "torch.nn.Module",
    "trainer": "lightning.pytorch.Trainer",
}


def check_config(config: DictConfig, schema: type) -> None:
    """Raise `ConfigError` for the first value that does not fit its purpose.

    Every ``_target_`` must be on the list of `lightning_losses.experiments.config.instantiate`. Its node is compared
    with its signature: argument names, the values of arguments annotated with plain types, and the ranges of
    settings. The top level is compared with the annotations of `schema`.

    Args:
        config: composed, with interpolations.
        schema: a class whose annotations are the types of the top level's plain values.
    """
    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True, enum_to_str=True)
    except InterpolationKeyError as error:
        where = error.full_key or "a value"
        raise ConfigError(
            f"{where}: it is taken from another key, which isn't there ({str(error).splitlines()[0].strip()}); keep "
            "that key, or give this one a value of its own."
        ) from None
    except OmegaConfBaseException as error:
        where = f"{error.full_key}: " if error.full_key else ""
        raise ConfigError(where + str(error).strip().splitlines()[0]) from None
    assert isinstance(plain, dict)
    check_targets(plain)
    _check_roles(plain)
    for name, annotation in get_type_hints(schema, include_extras=True).items():
        value = plain.get(name)
        # Nothing is built of the top level's plain values.
        bare = {key: item for key, item in value.items() if key != "_target_"} if isinstance(value, dict) else value
        _check_value(name, bare, annotation)
    # Modules take other parts by interpolation; what is wrong there is told by the key that can be changed.
    check_node("", dict(sorted(plain.items(), key=lambda item: item[0] == "modules")))


def _check_roles(plain: dict[Any, Any]) -> None:
    """Raise for a part that would have no effect, or whose class does not fit its name."""
    modules = plain.get("modules")
    if isinstance(modules, dict):
        if "student" in modules and modules["student"] is None:
            raise ConfigError(
                "modules.student=null: it is what a run trains; leave it as the experiment has it, or choose another "
                "experiment."
            )
        if modules.get("teacher") is not None and plain.get("teacher") == {}:
            raise ConfigError(
                "teacher=none: this experiment has a teacher; choose one (teacher=large_cnn), or train without: "
                "experiment=classify objective=ce."
            )
    for role, base in _ROLES.items():
        part, _, each = role.partition(".")
        node = plain.get(part)
        nodes = (
            {f"{part}.{name}": item for name, item in node.items()} if each and isinstance(node, dict) else {part: node}
        )
        for path, item in nodes.items():
            # A callback that is null is left out; one that is empty is a mistake.
            if item is None or (item == {} and not path.startswith("callbacks.")):
                continue
            if not isinstance(item, dict) or "_target_" not in item:
                raise ConfigError(
                    f"{path}={item!r}: it has no _target_, which says what is built; give one, or take {path} out."
                )
            target = find_target(item["_target_"], path)
            if inspect.isclass(target) and not is_a(target, (base,)):
                raise ConfigError(
                    f"{path}._target_={item['_target_']}: it is no {base.rpartition('.')[2]}; give one, or take "
                    f"{path} out."
                )


def check_writable(key: str, place: str | Path) -> Path:
    """The folder of this name, if it, or the one to make it in, can be written to; else `ConfigError`.

    Args:
        key: the setting's name, for the message.
        place: its path.
    """
    check_place(key, str(place))
    try:
        folder = Path(place).expanduser()
        writable_folder.check_writable(folder.absolute())
    except OSError as error:
        raise ConfigError(
            f"{key}={place}: {error.filename} can't be written: {error.strerror}; give another folder."
        ) from None
    except RuntimeError:
        raise ConfigError(f"{key}={place}: there is no user of this name; give a path.") from None
    return folder


def fits(value: Any, annotation: Any) -> bool:
    """Whether a value read from a configuration fits an annotation; annotations that aren't understood fit anything."""
    if annotation is Any or annotation is inspect.Parameter.empty:
        return True
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        base, *extras = arguments
        return fits(value, base) and all(extra.holds(value) for extra in extras if isinstance(extra, Bound))
    if origin in (Union, types.UnionType):
        return any(fits(value, argument) for argument in arguments)
    if isinstance(value, Mapping):
        # What it builds is known only when it is built; one that builds nothing is neither a module nor a plain value.
        plain = annotation in (*_PLAIN, None, type(None), Path) or origin is Literal
        module = isinstance(annotation, type) and issubclass(annotation, nn.Module)
        return "_target_" in value or not (plain or module)
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in arguments)
    if annotation is None or annotation is type(None):
        return value is None
    if annotation is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if annotation in _PLAIN:
        return type(value) is annotation
    if annotation is Path:
        return isinstance(value, str)
    if isinstance(value, list) and origin is tuple and Ellipsis not in arguments:
        return len(value) == len(arguments) and all(map(fits, value, arguments))
    if isinstance(value, list) and origin in (list, Sequence, Iterable):
        return all(fits(item, arguments[0]) for item in value)
    if isinstance(origin or annotation, type):
        # A class that no plain value is an instance of; lists and tuples are what sequences are written as.
        return isinstance(value, list) or (value is not None and not isinstance(value, _PLAIN))
    return True


def check_node(path: str, node: Any) -> None:
    """Raise `ConfigError` for the first argument in plain values, however deep, that its target doesn't take."""
    if isinstance(node, list):
        for position, item in enumerate(node):
            check_node(f"{path}[{position}]", item)
    if not isinstance(node, dict):
        return
    if "_target_" in node:
        _check_arguments(path, node)
    for name, value in node.items():
        check_node(f"{path}.{name}" if path else str(name), value)


def _check_arguments(path: str, node: dict[Any, Any]) -> None:
    target = find_target(node["_target_"], path)
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):
        return
    hints = argument_types(target)
    takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    has_settings = isinstance(target, type) and issubclass(target, (Loss, Declared))
    declared = {setting.name: setting for setting in settings(target)} if has_settings else {}
    for name, value in node.items():
        if name in ("_target_", "_partial_", "_args_", "_convert_", "_recursive_"):
            continue
        if name in parameters:
            _check_value(f"{path}.{name}", value, hints.get(name, Any))
            if name in declared and not isinstance(value, (dict, list)) and not declared[name].fits(value):
                raise ConfigError(f"{path}.{name}={value!r}: {declared[name].wanted()}.")
            bound = range_of(target, name)
            for number in value if isinstance(value, list) else [value]:
                if isinstance(number, (int, float)) and not bound.holds(number):
                    whom = "for each of these " if isinstance(value, list) else ""
                    raise ConfigError(f"{path}.{name}={value!r}: give {whom}{bound.wanted(number)}.")
        elif not takes_any:
            # Another choice of a group is merged with what an experiment sets of the first one.
            without = "" if "[" in path else f" Leave it out by ~{path}.{name}."
            raise ConfigError(
                f"{path}.{name}: {node['_target_'].rpartition('.')[2]} takes no '{name}'; "
                f"{nearest(str(name), parameters)}{without}"
            )


def _check_value(path: str, value: Any, annotation: Any) -> None:
    if not fits(value, annotation):
        words = _words(annotation)
        if isinstance(value, float) and not math.isfinite(value):
            words = words.replace("a number", "a finite number")
        raise ConfigError(f"{path}={value!r}: give {words}.")


def _words(annotation: Any) -> str:
    """The values that fit, in words: choices, then plain types and lists; classes if only null is a plain value."""
    options = list(_flat(annotation))
    choices = dict.fromkeys(
        str(choice) for option in options if get_origin(option) is Literal for choice in get_args(option)
    )
    words = [f"one of {', '.join(choices)}"] if choices else []
    null = ["null"] if type(None) in options else []
    for option in options:
        plain, *extras = get_args(option) if get_origin(option) is Annotated else (option,)
        arguments = get_args(plain)
        if plain in _NAMES:
            words.append(" ".join([_NAMES[plain], *(str(extra) for extra in extras if isinstance(extra, Bound))]))
        elif get_origin(plain) is tuple and Ellipsis not in arguments:
            words.append(f"a list of {len(arguments)}, each {_words(arguments[0])}")
        elif get_origin(plain) in (list, Sequence) and (arguments[0] in _NAMES or get_origin(arguments[0])):
            words.append(f"a list, each {_words(arguments[0])}")
    others = [
        f"a configuration of a {getattr(option, '__name__', option)} (with _target_)"
        for option in options
        if option is not type(None)
    ]
    return " or ".join([*(words or others), *null])


def _flat(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) in (Union, types.UnionType):
        for argument in get_args(annotation):
            yield from _flat(argument)
    else:
        yield annotation


def argument_types(target: Any) -> dict[str, Any]:
    """The types of a target's arguments, by name; none where only a type checker can read them."""
    try:
        return get_type_hints(inspect.getattr_static(target, "__init__") if isinstance(target, type) else target)
    except (NameError, TypeError, AttributeError, SyntaxError):
        # Annotations that only a type checker can read: nothing to compare with.
        return {}


def check_trainer(trainer: DictConfig, *, sweeping: bool = False) -> None:
    """Raise `ConfigError` for trainer settings that the recipe's training doesn't support.

    Args:
        trainer: the configuration of a Trainer.
        sweeping: whether it is one job of a sweep in this process (``-m`` without a launcher of its own).
    """
    strategy = trainer.get("strategy")
    target = str(strategy.get("_target_", "")) if isinstance(strategy, DictConfig) else ""
    if strategy in _FSDP1 or target.endswith(".FSDPStrategy"):
        raise ConfigError(
            f"trainer.strategy={target or strategy}: this is FSDP1, which is not supported: its flat parameters "
            "hide the tensors' bounds and Lightning resumes its full checkpoints inexactly; use trainer=fsdp (FSDP2)."
        )
    strategies = ("auto", *StrategyRegistry.available_strategies())
    if isinstance(strategy, str) and strategy not in strategies:
        raise ConfigError(f"trainer.strategy={strategy}: there is no such strategy; {nearest(strategy, strategies)}")
    if trainer.get("overfit_batches"):
        raise ConfigError(
            f"trainer.overfit_batches={trainer.overfit_batches}: Lightning would put other loaders in the place of "
            "those that a run resumes by; give trainer.limit_train_batches instead."
        )
    accelerator = trainer.get("accelerator")
    there = {"cuda": CUDAAccelerator.is_available(), "mps": MPSAccelerator.is_available()}
    if not {"gpu": any(there.values()), **there}.get(str(accelerator), True):
        raise ConfigError(
            f"trainer.accelerator={accelerator}: torch finds no such device on this machine; give "
            "trainer.accelerator=auto, which takes what there is, or cpu."
        )
    _check_time(trainer.get("max_time"))
    _check_devices(trainer.get("devices"), on_cpu=accelerator == "cpu" or not any(there.values()))
    for name, all_of_them in (("max_steps", "no limit"), ("devices", "all that there are")):
        if trainer.get(name) == 0:
            raise ConfigError(f"trainer.{name}=0: nothing would be trained; give at least 1, or -1 for {all_of_them}.")
    if sweeping and runs_again(trainer):
        raise ConfigError(
            f"trainer.strategy={target.rpartition('.')[2] or strategy} with -m (--multirun): Lightning would run this "
            "command again for each further process, and every one of them would begin the sweep anew; use "
            "trainer=ddp_fork, or a launcher that starts the processes by itself (hydra/launcher=submitit_slurm), or "
            "start each run by its own command."
        )


def _check_devices(devices: Any, *, on_cpu: bool) -> None:
    """Raise for values that Lightning would refuse without naming the key; ranges are checked elsewhere."""
    text = isinstance(devices, str) and devices != "auto" and not re.fullmatch(r"-?\d+(\s*,\s*\d+)*", devices)
    if text or (on_cpu and devices in (-1, "-1")) or devices == []:
        raise ConfigError(
            f"trainer.devices={devices}: give how many processes, at least 1, or auto"
            f"{'; on GPUs also -1 for all, or a list of their numbers.' if not on_cpu or text else '.'}"
        )


def _check_time(given: Any) -> None:
    plain: Any = OmegaConf.to_container(given) if OmegaConf.is_config(given) else given
    try:
        remaining = Timer(plain).time_remaining()
    except (MisconfigurationException, TypeError, ValueError):
        remaining = 0.0
    if remaining is not None and remaining <= 0:
        raise ConfigError(
            f"trainer.max_time={given}: this is not a positive duration; give days:hours:minutes:seconds, such as "
            "00:01:30:00, or null for no limit."
        )


def check_environment(trainer: DictConfig) -> None:
    """Raise `ConfigError` for a trainer of a SLURM job that isn't one."""
    plugins = trainer.get("plugins") or ()
    slurm = any(str(plugin.get("_target_", "")).endswith(".SLURMEnvironment") for plugin in plugins)
    if slurm and "SLURM_NTASKS" not in os.environ:
        raise ConfigError(
            "trainer=slurm: this is no process of a SLURM job; start the command by srun in a script for sbatch, or "
            "sweep with -m hydra/launcher=submitit_slurm (docs/scale.md has both)."
        )


def runs_again(trainer: DictConfig) -> bool:
    """Whether Lightning starts further processes by running the command again."""
    if {"SLURM_NTASKS", "TORCHELASTIC_RUN_ID"} & os.environ.keys():
        # srun and torchrun have started all of them.
        return False
    return runs_beside_others(trainer)


def runs_beside_others(trainer: DictConfig) -> bool:
    """Whether each of several processes runs the whole command."""
    several = trainer.get("devices", 1) not in (1, "1") or (trainer.get("num_nodes") or 1) != 1
    return several and not forks(trainer)


def on_cuda(trainer: DictConfig) -> bool:
    """Whether a trainer takes a GPU of Nvidia's or AMD's."""
    return trainer.get("accelerator", "auto") in ("auto", "gpu", "cuda") and CUDAAccelerator.is_available()


def forks(trainer: DictConfig) -> bool:
    """Whether Lightning makes each process from this one, which may not have started CUDA then."""
    return trainer.get("strategy") in _FORKING


def shards_teacher(trainer: DictConfig) -> bool:
    """Whether the strategy shards the teacher that a module is given."""
    strategy = trainer.get("strategy")
    return isinstance(strategy, DictConfig) and strategy.get("teacher") == "sharded"
