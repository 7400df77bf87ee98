"""Builds the objects that a configuration names, if they are on the list of allowed targets."""

import copy
import difflib
import importlib
import inspect
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import PureWindowsPath
from typing import Any, NamedTuple

import hydra.utils
from omegaconf import DictConfig, OmegaConf

from lightning_losses.environment.extras import advice

# No name with two underscores before it: those lead to Python's own machinery.
_NAME = re.compile(r"[A-Za-z]\w*(\.(?!__)[A-Za-z_]\w*)*")
# What libraries read as more than a path: a scheme (file:/x, s3://x), a chain of them (dir::/x), and variables of the
# environment ($HOME/x, %x%).
_MORE_THAN_A_PATH = re.compile(r"[A-Za-z][\w+.-]*:\S|.*(::|\$|%[^%/]+%)", re.DOTALL)


class _Rule(NamedTuple):
    """Public names under a module: subclasses of `bases`, the `names`, or, with `anything`, all functions and classes.

    A name is judged by the module in which its object was defined, not by its spelling: a module's own imports, such as
    ``torch.nn.functional.importlib``, belong to other modules. `anything` is for modules that do not read files, write
    files or run code from texts.
    """

    home: str
    bases: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    anything: bool = False


_MODULE = ("torch.nn.Module",)
_CALLBACK = ("lightning.pytorch.Callback",)
_OPTIMIZERS = ("torch.optim.Optimizer", "torch.optim.lr_scheduler.LRScheduler")
_PLUGINS = ("lightning.pytorch.plugins.Precision", "lightning.fabric.plugins.ClusterEnvironment")
_LOGGER = ("lightning.pytorch.loggers.Logger",)
_PROFILER = ("lightning.pytorch.profilers.Profiler",)
_OURS = (
    *(_Rule(room, anything=True) for room in ("losses", "metrics", "objective", "optim", "samplers", "transport")),
    _Rule("attacks", ("lightning_losses.attacks.attack.Attack",)),
    _Rule("balancing", _MODULE),
    *(_Rule(f"kernels.{name}", anything=True) for name in ("linear_cross_entropy", "linear_distillation")),
    _Rule("kernels.linear_stablemax_cross_entropy", anything=True),
    _Rule("calibrators", _MODULE),
    # Experiments add records by themselves.
    *(_Rule(f"callbacks.{kind}", _CALLBACK) for kind in ("calibration", "companions", "interventions", "monitors")),
    _Rule("checkpoints", _CALLBACK),
    _Rule("data", ("lightning.pytorch.LightningDataModule",), ("RandomAffine", "RandomShift", "RandomSignal")),
    _Rule("experiments", ("lightning_losses.experiments.launch.Experiment", *_LOGGER)),
    _Rule("modules", _MODULE),
    _Rule(
        "networks",
        _MODULE,
        ("SentenceTokenizer", "hugging_face_causal", "multi_token_transformer", "timm_network", "with_margin_head"),
    ),
    _Rule("out_of_distribution", ("lightning_losses.out_of_distribution.OutOfDistributionScore",)),
    _Rule("parallel.blocks", names=("Execution",)),
    _Rule("parallel.fsdp2", names=("FSDP2Strategy",)),
    _Rule("test_time", ("lightning_losses.test_time.adaptation.TestTimeMethod",)),
    _Rule("transduction", ("lightning_losses.numerics.settings.Declared",)),
    _Rule("teachers", _MODULE, ("checkpoint_teacher", "load_cached_teacher", "timm_teacher")),
)
_RULES = (
    *(rule._replace(home=f"lightning_losses.{rule.home}") for rule in _OURS),
    _Rule("torch.nn", _MODULE),
    _Rule("torch.nn.functional", anything=True),
    _Rule("torch.optim", _OPTIMIZERS),
    _Rule("lightning.fabric.plugins", _PLUGINS),
    _Rule("lightning.pytorch.accelerators", ("lightning.pytorch.accelerators.Accelerator",)),
    _Rule("lightning.pytorch.callbacks", _CALLBACK),
    # Others send what they are told to an address.
    *(_Rule(f"lightning.pytorch.loggers.{kind}", _LOGGER) for kind in ("csv_logs", "logger", "tensorboard", "wandb")),
    _Rule("lightning.pytorch.plugins", _PLUGINS),
    _Rule("lightning.pytorch.profilers", _PROFILER),
    _Rule("lightning.pytorch.strategies", ("lightning.pytorch.strategies.Strategy",)),
    _Rule("lightning.pytorch.trainer.trainer", names=("Trainer",)),
    _Rule("pytorch_metric_learning.losses", _MODULE),
    _Rule("pytorch_metric_learning.distances", _MODULE),
    _Rule("pytorch_metric_learning.reducers", _MODULE),
    _Rule("timm.layers", _MODULE),
    _Rule("timm.loss", _MODULE),
    _Rule("timm.models", _MODULE),
    _Rule("timm.optim", _OPTIMIZERS),
    _Rule("torchmetrics.classification", ("torchmetrics.Metric",)),
    _Rule("torchmetrics.functional.classification", anything=True),
    _Rule("torchmetrics.functional.regression", anything=True),
    # Only classes that weigh by products, which a policy of balancing takes.
    _Rule("torchjd.aggregation", _MODULE),
    _Rule("torchmetrics.regression", ("torchmetrics.Metric",)),
    _Rule("torchvision.models", _MODULE),
    _Rule("torchvision.ops", _MODULE, ("sigmoid_focal_loss",)),
    _Rule("torchvision.transforms", _MODULE),
)
# Where a name may begin; nothing else is imported to look at it, since importing a module runs it.
_DOORS = (
    *("lightning.Trainer", "lightning.fabric.plugins", "lightning.pytorch", "lightning_losses"),
    *("pytorch_metric_learning", "timm.layers", "timm.loss", "timm.models", "timm.optim", "torch.nn", "torch.optim"),
    *("torchjd.aggregation", "torchmetrics", "torchvision.models", "torchvision.ops", "torchvision.transforms"),
)
# What writes where its arguments say.
_WRITERS = (*_LOGGER, *_PROFILER, *_CALLBACK)

_further: tuple[str, ...] = ()


class ConfigError(ValueError):
    """A configuration that can't be run; the user sees only its message, without a stack trace."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """The end of a message about a wrong name: the likely intended name, and all possible names."""
    ordered = sorted(choice for choice in choices if not choice.startswith("_"))
    near = difflib.get_close_matches(name, ordered, n=1)
    return f"{f'did you mean {near[0]}? Choose' if near else 'choose'} one of: {', '.join(ordered)}."


@contextmanager
def allowing(targets: Sequence[str]) -> Iterator[None]:
    """Within this context, configurations may also build the objects of these names.

    Args:
        targets: dotted names; a module or package allows the public classes and functions that are defined in it.

    Raises:
        ValueError: a text that is not a dotted name.
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

    Interpolations are resolved first, so that Hydra gets exactly the values that were checked.

    Raises:
        ValueError: a ``_target_`` that is not on the list; the message says how to extend it.
    """
    resolved = copy.deepcopy(config) if OmegaConf.is_config(config) else OmegaConf.create(config)
    OmegaConf.resolve(resolved)
    path = str(config._get_full_key(None) or "") if isinstance(config, DictConfig) else ""
    check_targets(OmegaConf.to_container(resolved, resolve=False), path)
    return hydra.utils.instantiate(resolved, *arguments, **options)


def check_targets(node: Any, path: str = "") -> None:
    """Raise ``ValueError`` for the first target in resolved plain values that a configuration may not build."""
    if isinstance(node, str) and "${" in node:
        raise ConfigError(f"{path}={node}: this could become anything when it is read again; write out what it means.")
    if isinstance(node, list | tuple):
        for position, item in enumerate(node):
            check_targets(item, f"{path}[{position}]")
    elif isinstance(node, dict):
        if "_target_" in node:
            _check_places(find_target(node["_target_"], path), node, path)
        for name, value in node.items():
            # The settings of a run are keyed by the whole path of what they replace.
            if str(name).endswith("._target_"):
                find_target(value, str(name).removesuffix("._target_"))
            check_targets(value, f"{path}.{name}" if path else str(name))


def find_target(name: Any, path: str = "") -> Any:
    """The class or function that a ``_target_`` names, if a configuration may build it.

    Raises:
        ValueError: the target is not allowed, or does not exist.
    """
    where = f"{path}._target_={name}" if path else f"_target_={name}"
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(f"{where}: give the dotted name of a class or a function.")
    if not any(_within(name, door) for door in (*_DOORS, *(target.partition(".")[0] for target in _further))):
        raise ConfigError(f"{where}: {_refusal(name)}")
    try:
        found = _resolve(name)
    except ImportError as error:
        raise ConfigError(f"{where}: {_why_not(error)}") from None
    if not (_added(name, found) or _allowed(found)):
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

    Two configurations build the same objects if their remaining arguments are equal: a changed default is a change of
    the code, and a new argument that is given at its default changes nothing.

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


def _defaults(target: str) -> dict[str, Any]:
    try:
        # A kept result may come from elsewhere, and to import what it names would run it.
        parameters = inspect.signature(find_target(target)).parameters.values()
    except (TypeError, ValueError):
        return {}
    return {
        parameter.name: parameter.default
        for parameter in parameters
        if parameter.default is None or isinstance(parameter.default, bool | int | float | str)
    }


def check_place(key: str, place: Any) -> None:
    """Raise `ConfigError` for a text that is not a path: an empty text would mean the working folder, or the root."""
    if not isinstance(place, str) or not place.strip() or "\0" in place:
        shown = "null" if place is None else repr(place)
        raise ConfigError(f"{key}={shown}: this names no place; give a path, such as outputs, or . for the one here.")


def leaves_folder(place: str) -> bool:
    """Whether a path leads out of the folder that it is read in.

    Example:
        >>> [leaves_folder(place) for place in ("logs/a", "/etc", "~/a", "logs/../../a", "s3://a/b", "file:/a")]
        [False, True, True, True, True, True]
    """
    windows = PureWindowsPath(place)
    elsewhere = place.startswith(("/", "~")) or bool(windows.anchor) or ".." in windows.parts
    return elsewhere or "://" in place or bool(_MORE_THAN_A_PATH.match(place))


def _texts(node: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Every text of a node with its key; nodes with their own target are checked separately."""
    if isinstance(node, str):
        yield name, node
    elif isinstance(node, dict):
        for key, value in node.items():
            if not (isinstance(value, dict) and "_target_" in value):
                yield from _texts(value, str(key))
    elif isinstance(node, list | tuple):
        for value in node:
            if not (isinstance(value, dict) and "_target_" in value):
                yield from _texts(value, name)


def _check_places(target: Any, node: dict[Any, Any], path: str) -> None:
    if not (inspect.isclass(target) and is_a(target, _WRITERS)) or _added(node["_target_"], target):
        return
    for name, value in _texts(node):
        if leaves_folder(value):
            raise ConfigError(
                f"{path}.{name}={value}: {target.__name__} may write only below the working folder; give a relative "
                f"path without '..', or add allowed_targets=[{node['_target_']}] to the command line."
            )


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
    if not _plain(found):
        return False
    for rule in _RULES:
        if _within(found.__module__ or "", rule.home) and (
            rule.anything or found.__name__ in rule.names or (inspect.isclass(found) and is_a(found, rule.bases))
        ):
            return True
    return False


def _added(name: Any, found: Any) -> bool:
    """Whether the user has put it on the list."""
    return name in _further or (_plain(found) and any(_within(found.__module__ or "", target) for target in _further))


def _plain(found: Any) -> bool:
    """Whether it is a module's own public class or function.

    Methods are excluded, since they may load files (load_from_checkpoint), and so are builtins of unknown origin.
    """
    return (inspect.isclass(found) or inspect.isfunction(found)) and not (
        "." in found.__qualname__ or found.__name__.startswith("_")
    )


def _within(home: str, module: str) -> bool:
    return home == module or home.startswith(f"{module}.")


def is_a(found: type, bases: tuple[str, ...]) -> bool:
    """Whether a class is, or derives from, one of the classes with these names."""
    return any(issubclass(found, _resolve(base)) for base in bases)
