"""Reads and checks a W&B sweep file before any run."""

import importlib.resources
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from lightning_losses.experiments.config.check_config import ConfigError, nearest
from lightning_losses.experiments.config.check_overrides import CONFIG_MODULE, check_overrides
from lightning_losses.experiments.config.settings import SETTINGS
from lightning_losses.experiments.sweeps.command import HYDRA_MACROS, check_command, expand, recipe_of
from lightning_losses.experiments.sweeps.distributions import Distribution, check_grid, read_distribution
from lightning_losses.experiments.sweeps.hyperband import Hyperband, read_hyperband

_KEYS = (
    "method",
    "parameters",
    "metric",
    "program",
    "command",
    "early_terminate",
    "run_cap",
    "name",
    "description",
    "project",
    "entity",
    "apiVersion",
    "kind",
)
# Keys that only W&B's servers use; they are refused, so that nothing is ignored silently.
_SERVER = {
    "controller": "it says where W&B's controller runs",
    "scheduler": "it starts a scheduler of W&B's",
    "metrics": "several metrics are for W&B's schedulers",
    "job": "it is W&B Launch's",
    "image_uri": "it is W&B Launch's",
}
_METHODS = ("grid", "random", "bayes")
_METRIC_KEYS = ("name", "goal", "target", "impute", "impute_while_running")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
# Macros that write parameters in a form that recipes can't read.
_NOT_OVERRIDES = ("${args_no_boolean_flags}", "${args_no_equals}", "${args_json}", "${args_json_file}")
# The parameter that chooses between objectives, and the prefix of parameters that only one of them has.
CHOICE = "objective_name"
_CHOSEN = "objectives."


@dataclass(frozen=True)
class Metric:
    """The metric that a sweep optimises.

    Attributes:
        name: its name in the runs' reports.
        goal: "minimize" or "maximize".
        target: the sweep ends when a run reaches it; None: never.
        impute: the substitute for a failed run's metric in a search that learns: "worst", "best" or "latest".
    """

    name: str
    goal: Literal["minimize", "maximize"] = "minimize"
    target: float | None = None
    impute: Literal["worst", "best", "latest"] = "worst"

    @property
    def sign(self) -> int:
        """1 if smaller is better, -1 if larger is."""
        return 1 if self.goal == "minimize" else -1


@dataclass(frozen=True)
class Sweep:
    """A checked sweep.

    Attributes:
        path: the sweep file.
        method: the search method.
        parameters: the distributions by dotted name, including those of nested parameters.
        nested: the dotted names of groups of nested parameters.
        metric: the metric, if the file has one.
        program: the script, as written in the file.
        command: the words of a run's command, with macros.
        hyperband: the rule of early termination, if there is one.
        run_cap: the largest number of runs.
        name: the name in the file, or the file's name.
        definition: the file's content.
    """

    path: Path
    method: Literal["grid", "random", "bayes"]
    parameters: dict[str, Distribution]
    nested: frozenset[str]
    metric: Metric | None
    program: str | None
    command: tuple[Any, ...]
    hyperband: Hyperband | None
    run_cap: int | None
    name: str
    definition: dict[str, Any]

    @property
    def hydra(self) -> bool:
        """Whether its runs take Hydra's overrides; recipes also take them with hyphens."""
        return any(macro in self.command for macro in HYDRA_MACROS) or recipe_of(self.words({})) is not None

    def script(self) -> str | None:
        """The program's path: in the working folder, or else beside the ``conf`` folder that contains the file."""
        if self.program is None or Path(self.program).is_file():
            return self.program
        beside = self.path.resolve().parents[2] / self.program if len(self.path.resolve().parents) > 2 else None
        return str(beside) if beside is not None and beside.is_file() else self.program

    def words(self, parameters: Mapping[str, Any], *, json_file: Path | None = None) -> list[str]:
        """The words of the command that starts a run with these parameters, given by dotted names."""
        return expand(self.command, self.shaped(parameters), program=self.script(), json_file=json_file)

    def shaped(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Parameters in W&B's form, with nested ones as dictionaries."""
        found: dict[str, Any] = {}
        for name, value in parameters.items():
            node, key = found, name
            if name in self.nested:
                *above, key = name.split(".")
                for part in above:
                    node = node.setdefault(part, {})
            node[key] = value
        return found

    def in_force(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters without ``objectives.<name>.*`` of objectives that are not chosen."""
        chosen = parameters.get(CHOICE)
        return {
            name: value
            for name, value in parameters.items()
            if chosen is None or not belongs_to_choice(name) or name.split(".")[1] == str(chosen)
        }

    def grid(self) -> Iterator[dict[str, Any]]:
        """The grid's points, the last parameter varying fastest; points that give the same run occur once."""
        seen: set[str] = set()
        names = list(self.parameters)
        for values in itertools.product(*(self.parameters[name].points() for name in names)):
            point = self.in_force(dict(zip(names, values, strict=True)))
            key = json.dumps(point, sort_keys=True, default=str)
            if key not in seen:
                seen.add(key)
                yield point


def read_sweep(path: Path) -> Sweep:
    """Read and check a sweep file.

    Raises:
        ConfigError: a file that W&B would refuse, or a sweep that only W&B's servers can run.
    """
    definition = _load(path)
    for key in definition:
        if key in _SERVER:
            raise ConfigError(f"{path}: {key}: {_SERVER[key]}; without a server leave it out.")
        if key not in _KEYS:
            raise ConfigError(f"{path}: there is no '{key}' in a sweep; {nearest(str(key), _KEYS)}")
    try:
        return _sweep(path, definition)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def check_runs(sweep: Sweep, overrides: Sequence[str]) -> None:
    """Compose configurations of runs that cover every value of a list and both ends of every range.

    Only for this library's recipes, because other configurations are unknown.

    Args:
        sweep: the sweep to check.
        overrides: the overrides added to every run.

    Raises:
        ConfigError: a program that doesn't exist, a parameter that the configuration doesn't have, a value that doesn't
            fit.
    """
    script = sweep.script()
    if "${program}" in (sweep.command or ("${program}",)) and script is not None and not Path(script).is_file():
        raise ConfigError(f"{sweep.path}: program: there is no {sweep.program}, neither here nor beside the file.")
    recipe = recipe_of(sweep.words({}))
    if recipe is None:
        return
    if wrong := [macro for macro in _NOT_OVERRIDES if macro in sweep.command]:
        raise ConfigError(
            f"{sweep.path}: command: recipes take overrides, key=value; put ${{args_no_hyphens}} in place of "
            f"{wrong[0]}."
        )
    ends = {name: distribution.ends() for name, distribution in sweep.parameters.items()}
    for place in range(max(map(len, ends.values()), default=1)):
        parameters = {name: values[min(place, len(values) - 1)] for name, values in ends.items()}
        words = [*sweep.words(parameters), *overrides]
        check_overrides(recipe, overrides_of(words, recipe), SETTINGS[recipe])


def overrides_of(words: Sequence[str], recipe: str) -> list[str]:
    """The overrides in a command: its words after the recipe's name."""
    from lightning_losses.experiments.config.check_overrides import plain_overrides

    start = next(place for place, word in enumerate(words) if recipe_of(words[: place + 1]) == recipe)
    return plain_overrides(words[start + 1 :])


def _sweep(path: Path, definition: dict[str, Any]) -> Sweep:
    method = definition.get("method")
    if method not in _METHODS:
        end = "custom is for W&B's schedulers; " if method == "custom" else ""
        raise ConfigError(f"method: {method!r} came; {end}{nearest(str(method), _METHODS)}")
    parameters: dict[str, Distribution] = {}
    nested: set[str] = set()
    _read_parameters("", definition.get("parameters"), parameters, nested)
    if method == "grid":
        for name, distribution in parameters.items():
            check_grid(name, distribution)
    metric = _metric(definition.get("metric"))
    hyperband = read_hyperband(_mapping("early_terminate", definition)) if "early_terminate" in definition else None
    if metric is None and (method == "bayes" or hyperband is not None):
        raise ConfigError(f"metric: {'bayes' if method == 'bayes' else 'early_terminate'} needs one; give its name.")
    run_cap = definition.get("run_cap")
    if run_cap is not None and (not isinstance(run_cap, int) or isinstance(run_cap, bool) or run_cap < 1):
        raise ConfigError(f"run_cap: {run_cap!r} came; give a whole number of at least 1.")
    check_command(definition.get("command", []), definition.get("program"))
    return Sweep(
        path=path,
        method=method,
        parameters=parameters,
        nested=frozenset(nested),
        metric=metric,
        program=definition.get("program"),
        command=tuple(definition.get("command", ())),
        hyperband=hyperband,
        run_cap=run_cap,
        name=str(definition.get("name") or path.stem),
        definition=definition,
    )


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        own = sorted(file.name for file in importlib.resources.files(f"{CONFIG_MODULE}.sweep").iterdir())
        bundled = ", ".join(name.removesuffix(".yaml") for name in own if name.endswith(".yaml"))
        raise ConfigError(f"{path}: there is no such file; give a W&B sweep file, or one of {bundled}.")
    try:
        definition = yaml.safe_load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}: line {line} is no UTF-8 text; save the file as UTF-8.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark is not None else ""
        raise ConfigError(f"{path}:{where or ' this'} is no YAML ({getattr(error, 'problem', error)}).") from None
    if not isinstance(definition, dict):
        raise ConfigError(f"{path}: it holds no mapping; a sweep has method, parameters and a program or command.")
    return definition


def _read_parameters(prefix: str, specs: Any, found: dict[str, Distribution], nested: set[str]) -> None:
    if not isinstance(specs, dict) or not specs:
        raise ConfigError(f"{f'parameters.{prefix}'.rstrip('.')}: {specs!r} came; give at least one parameter.")
    for name, spec in specs.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ConfigError(
                f"parameters: {prefix}{name}: W&B takes letters, digits, '_', '.' and '-' in a name; put anything else "
                "that a run needs into the command."
            )
        if not isinstance(spec, dict):
            raise ConfigError(f"parameters.{prefix}{name}: {spec!r} came; give a mapping, such as {{value: {spec!r}}}.")
        if "parameters" in spec:
            if len(spec) > 1:
                raise ConfigError(f"parameters.{prefix}{name}: 'parameters' can't be combined with other keys.")
            _read_parameters(f"{prefix}{name}.", spec["parameters"], found, nested)
            continue
        full = f"{prefix}{name}"
        if full in found:
            raise ConfigError(f"parameters.{full}: it occurs twice, nested and by its dotted name.")
        found[full] = read_distribution(full, spec)
        if prefix:
            nested.add(full)


def _metric(spec: Any) -> Metric | None:
    if spec is None:
        return None
    if not isinstance(spec, dict) or not isinstance(spec.get("name"), str):
        raise ConfigError(f"metric: {spec!r} came; give name, such as val/loss, and goal, minimize or maximize.")
    for key in spec:
        if key not in _METRIC_KEYS:
            raise ConfigError(f"metric: there is no '{key}'; {nearest(str(key), _METRIC_KEYS)}")
    goal, target, impute = spec.get("goal", "minimize"), spec.get("target"), spec.get("impute", "worst")
    if goal not in ("minimize", "maximize"):
        raise ConfigError(f"metric: goal={goal!r} came; {nearest(str(goal), ('minimize', 'maximize'))}")
    if target is not None and (isinstance(target, bool) or not isinstance(target, (int, float))):
        raise ConfigError(f"metric: target={target!r} came; give a number.")
    if impute not in ("worst", "best", "latest"):
        raise ConfigError(f"metric: impute={impute!r} came; {nearest(str(impute), ('worst', 'best', 'latest'))}")
    if str(spec.get("impute_while_running", "false")).lower() != "false":
        raise ConfigError("metric: impute_while_running: here runs count only after their end; leave it out.")
    return Metric(spec["name"], goal, target, impute)


def _mapping(name: str, definition: Mapping[str, Any]) -> dict[str, Any]:
    value = definition[name]
    if not isinstance(value, dict):
        raise ConfigError(f"{name}: {value!r} came; give a mapping.")
    return value


def belongs_to_choice(name: str) -> bool:
    """Whether a parameter belongs to one objective: ``objectives.<name>.*``."""
    return name.startswith(_CHOSEN)
