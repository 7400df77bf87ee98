"""Builds what a configuration names, if it is on the list of what a configuration may build."""

import functools
import importlib
import inspect
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import hydra.utils
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from lightning_losses.environment.extras import advice

# No name with two underscores before it: those lead to Python's own machinery.
_NAME = re.compile(r"[A-Za-z]\w*(\.(?!__)[A-Za-z_]\w*)*")


class _Rule(NamedTuple):
    """Public names under a module: subclasses of `bases`, and functions or other classes where `anything` says so.

    A name is judged by where what it leads to was defined, not by how it is written: a module's own imports, such as
    ``torch.nn.functional.importlib``, lead out of it.
    """

    home: str
    bases: tuple[str, ...] = ()
    anything: bool = False


_OURS = (
    "calibrators callbacks checkpoints.epoch_seed checkpoints.last_checkpoint checkpoints.logged_values "
    "checkpoints.process_states data experiments.loggers.wandb_run kernels losses "
    "metrics mixins modules networks objective optim parallel.blocks parallel.fsdp2 samplers teachers transport"
)
_LIGHTNING = (
    "lightning.pytorch.Trainer",
    "lightning.pytorch.Callback",
    "lightning.pytorch.loggers.Logger",
    "lightning.pytorch.profilers.Profiler",
    "lightning.pytorch.accelerators.Accelerator",
    "lightning.pytorch.strategies.Strategy",
    "lightning.pytorch.plugins.Precision",
    "lightning.fabric.plugins.CheckpointIO",
    "lightning.fabric.plugins.ClusterEnvironment",
)
_OPTIMIZERS = ("torch.optim.Optimizer", "torch.optim.lr_scheduler.LRScheduler")
_RULES = (
    *(_Rule(f"lightning_losses.{part}", anything=True) for part in _OURS.split()),
    _Rule("lightning_losses.experiments", ("lightning_losses.experiments.launch.Experiment",)),
    _Rule("torch.nn", ("torch.nn.Module",)),
    _Rule("torch.nn.functional", anything=True),
    _Rule("torch.optim", _OPTIMIZERS),
    _Rule("lightning.pytorch", _LIGHTNING),
    _Rule("lightning.fabric", _LIGHTNING),
    _Rule("pytorch_metric_learning.losses", ("torch.nn.Module",)),
    _Rule("pytorch_metric_learning.distances", ("torch.nn.Module",)),
    _Rule("pytorch_metric_learning.reducers", ("torch.nn.Module",)),
    _Rule("timm.layers", ("torch.nn.Module",)),
    _Rule("timm.loss", ("torch.nn.Module",)),
    _Rule("timm.models", ("torch.nn.Module",)),
    _Rule("timm.optim", _OPTIMIZERS),
    _Rule("torchmetrics.classification", ("torchmetrics.Metric",)),
    _Rule("torchmetrics.functional.classification", anything=True),
    _Rule("torchmetrics.functional.regression", anything=True),
    _Rule("torchmetrics.regression", ("torchmetrics.Metric",)),
    _Rule("torchvision.models", ("torch.nn.Module",)),
    _Rule("torchvision.ops", ("torch.nn.Module",)),
    _Rule("torchvision.ops.focal_loss", anything=True),
    _Rule("torchvision.transforms", anything=True),
)
# Imported only for these: importing a module runs it.
_PACKAGES = tuple(dict.fromkeys(rule.home.partition(".")[0] for rule in _RULES))

_further: tuple[str, ...] = ()


class ConfigError(ValueError):
    """A configuration that can't be run; its text is all that a user needs to see."""


@contextmanager
def allowing(targets: Sequence[str]) -> Iterator[None]:
    """Within this context, configurations may also build what these names lead to.

    Args:
        targets: dotted names; a module or package allows the public classes and functions that are defined in it.

    Raises:
        ValueError: what is no dotted name.
    """
    global _further
    if bad := [target for target in targets if not isinstance(target, str) or not _NAME.fullmatch(target)]:
        raise ConfigError(
            f"allowed_targets={list(targets)}: {bad[0]!r} is no dotted name, such as my_package.networks."
        )
    before, _further = _further, (*_further, *targets)
    try:
        yield
    finally:
        _further = before


def instantiate(config: Any, *arguments: Any, **options: Any) -> Any:
    """Hydra's `instantiate`, after a check of every ``_target_`` in the configuration, however deep.

    Raises:
        ValueError: a ``_target_`` that is not on the list; the message says how to extend it.
    """
    plain = OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else config
    check_targets(plain, "" if not isinstance(config, DictConfig) else str(config._get_full_key(None) or ""))
    return hydra.utils.instantiate(config, *arguments, **options)


def check_targets(node: Any, path: str = "") -> None:
    """Raise ``ValueError`` for the first ``_target_`` in plain values that a configuration may not build."""
    if isinstance(node, list | tuple):
        for position, item in enumerate(node):
            check_targets(item, f"{path}[{position}]")
    elif isinstance(node, dict):
        if "_target_" in node:
            find_target(node["_target_"], path)
        for name, value in node.items():
            # The settings of a run are keyed by the whole path of what they replace.
            if str(name).endswith("._target_"):
                find_target(value, str(name).removesuffix("._target_"))
            check_targets(value, f"{path}.{name}" if path else str(name))


def find_target(name: Any, path: str = "") -> Any:
    """The class or function that a ``_target_`` names, if a configuration may build it.

    Raises:
        ValueError: it may not, or there is none.
    """
    where = f"{path}._target_={name}" if path else f"_target_={name}"
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(f"{where}: give the dotted name of a class or a function.")
    packages = (*_PACKAGES, *(target.partition(".")[0] for target in _further))
    if name.partition(".")[0] not in packages:
        raise ConfigError(f"{where}: {_refusal(name)}")
    try:
        found = _resolve(name)
    except ImportError as error:
        raise ConfigError(f"{where}: {_why_not(error)}") from None
    if not (name in _further or _allowed(found)):
        raise ConfigError(f"{where}: {_refusal(name)}")
    if not callable(found):
        raise ConfigError(f"{where}: it is a {type(found).__name__}; give a class or a function.")
    return found


def targets(node: Any) -> Iterator[str]:
    """Every ``_target_`` of a plain configuration.

    Example:
        >>> list(targets({"a": [{"_target_": "x.Y"}], "_target_": "z"}))
        ['x.Y', 'z']
    """
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "_target_" and isinstance(value, str):
                yield value
            else:
                yield from targets(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from targets(value)


def essential(node: Any) -> Any:
    """A plain configuration without the arguments that have their targets' defaults.

    Two configurations with the same rest build the same: a default that is changed is a change of the code, and an
    argument that is new, and written out at its default, changes nothing.

    Example:
        >>> essential({"loss": {"_target_": "lightning_losses.losses.KD", "temperature": 2.0, "reduction": "mean"}})
        {'loss': {'_target_': 'lightning_losses.losses.KD', 'temperature': 2.0}}
    """
    if isinstance(node, list | tuple):
        return [essential(value) for value in node]
    if not isinstance(node, dict):
        return node
    defaults = _defaults(node["_target_"]) if isinstance(node.get("_target_"), str) else {}
    return {
        name: essential(value)
        for name, value in node.items()
        # 1 and 1.0 build the same, 1 and True may not.
        if not (
            name in defaults and defaults[name] == value and isinstance(value, bool) == isinstance(defaults[name], bool)
        )
    }


@functools.cache
def _defaults(target: str) -> dict[str, Any]:
    try:
        parameters = inspect.signature(hydra.utils.get_object(target)).parameters.values()
    except (ImportError, InstantiationException, TypeError, ValueError):
        return {}
    return {
        parameter.name: parameter.default
        for parameter in parameters
        if parameter.default is None or isinstance(parameter.default, bool | int | float | str)
    }


def _refusal(name: str) -> str:
    return (
        f"a configuration may not build this. If you trust it, add allowed_targets=[{name}], or the module that it is "
        "defined in, to the command line."
    )


def _why_not(error: ImportError) -> str:
    return advice(error.name) or f"it can't be imported ({str(error).strip().splitlines()[-1]})."


def _resolve(name: str) -> Any:
    parts = name.split(".")
    for length in range(len(parts) - 1, 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError as error:
            # What is missing may also be a module that the named one wants.
            if error.name is None or not name.startswith(error.name):
                raise
            continue
        for part in parts[length:]:
            if not hasattr(found, part):
                raise ImportError(f"{'.'.join(parts[:length])} has no {'.'.join(parts[length:])}")
            found = getattr(found, part)
        return found
    raise ImportError(f"there is no module {parts[0]}" if len(parts) > 1 else "a module is no class", name=parts[0])


def _allowed(found: Any) -> bool:
    # Neither methods, which may load files (load_from_checkpoint), nor builtins, whose origin can't be told.
    if not (inspect.isclass(found) or inspect.isfunction(found)):
        return False
    home = found.__module__ or ""
    if "." in found.__qualname__ or found.__name__.startswith("_"):
        return False
    if any(_within(home, target) for target in _further):
        return True
    for rule in _RULES:
        if _within(home, rule.home) and (rule.anything or (inspect.isclass(found) and _is_a(found, rule.bases))):
            return True
    return False


def _within(home: str, module: str) -> bool:
    return home == module or home.startswith(f"{module}.")


def _is_a(found: type, bases: tuple[str, ...]) -> bool:
    return any(issubclass(found, _resolve(base)) for base in bases)
