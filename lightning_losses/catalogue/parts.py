"""The table of everything but losses, built from the classes themselves."""

import importlib
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from omegaconf import OmegaConf
from rich import box
from rich.markup import escape
from rich.table import Table

from lightning_losses.catalogue.configurations import configurations
from lightning_losses.catalogue.losses import check_known, summary_of
from lightning_losses.environment.lazy_exports import exports
from lightning_losses.experiments.config.instantiate import targets

# What else there is beside losses, and the packages that it stands in.
PARTS = {
    "metrics": ("metrics",),
    "balancing": ("balancing",),
    "calibrators": ("calibrators",),
    "callbacks": ("callbacks", "checkpoints"),
    "mixins": ("mixins",),
    "samplers": ("samplers",),
    "kernels": ("kernels",),
    "decoding": ("decoding",),
    "attacks": ("attacks",),
    "out_of_distribution": ("out_of_distribution",),
    "test_time": ("test_time",),
}
# What others derive from, and nobody uses by itself.
_BASES = {
    *("Calibrator", "ConformalIntervals", "ConformalSets"),
    *("DeclaredCallback", "GradientBalancing", "LogOddsOneVsRest", "MeanMetric", "OneVsRest", "PredictionMetric"),
    *("GradientAttack", "OutOfDistributionScore", "SequenceProcessor", "SurpriseControl", "TestTimeMethod"),
    *(f"{kind}Monitor" for kind in ("", "Attack", "Gradient", "Layer", "Logit", "Parameter", "Probe")),
}


@dataclass(frozen=True)
class Part:
    """A metric, policy of balancing, calibrator, callback, mixin, sampler, kernel, logits processor, attack or score.

    Attributes:
        name: the class, or the function.
        module: where it is defined.
        kind: one of `PARTS`.
        summary: the first sentence of its documentation.
        configs: the choices of ``conf/`` that make one, as ``group=name``.
    """

    name: str
    module: str
    kind: str
    summary: str
    configs: tuple[str, ...]


def parts(kind: str) -> list[Part]:
    """Every metric, calibrator, callback, mixin, sampler, kernel or logits processor, by name.

    Args:
        kind: one of `PARTS`.

    Example:
        >>> [part.configs for part in parts("calibrators") if part.name == "MatrixScaling"]
        [('calibrator=matrix',)]
    """
    check_known("kind", kind, set(PARTS))
    choices = _targets()
    return [
        Part(
            name,
            value.__module__,
            kind,
            summary_of(value),
            tuple(choice for choice, targets_of in choices.items() if _makes(targets_of, name, value)),
        )
        for name, value in sorted(_offered(kind), key=lambda pair: pair[0].lower())
    ]


def parts_table(found: list[Part]) -> Table:
    """Parts of one kind for the terminal."""
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("name", "what it is", "chosen by"):
        table.add_column(name, overflow="fold", no_wrap=name == "name")
    for part in found:
        table.add_row(part.name, escape(part.summary), ", ".join(part.configs) or "–")
    return table


@cache
def _targets() -> dict[str, set[str]]:
    """The dotted names of what each choice makes."""
    return {
        choice: {name for name in targets(OmegaConf.to_container(config)) if name.startswith("lightning_losses.")}
        for choice, config in configurations().items()
        # An experiment uses what a group offers.
        if not choice.startswith("experiment=")
    }


def _makes(targets_of: set[str], name: str, value: Any) -> bool:
    """Whether this object is among the targets: a loss, say, may have the name of the monitor that logs it."""
    homes = (home for home, _, last in (target.rpartition(".") for target in targets_of) if last == name)
    return any(getattr(importlib.import_module(home), name) is value for home in homes)


def _offered(kind: str) -> Iterator[tuple[str, Any]]:
    """The names and objects of one kind."""
    root = importlib.import_module("lightning_losses")
    if kind == "kernels":
        homes = exports(str(root.__file__))
        yield from (
            (name, getattr(root, name)) for name in homes if homes[name].startswith("lightning_losses.kernels.")
        )
        return
    for package in (importlib.import_module(f"lightning_losses.{name}") for name in PARTS[kind]):
        if kind == "samplers":
            yield from ((name, getattr(package, name)) for name in package.__all__)
            continue
        base = _base(kind)
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            for name, value in vars(importlib.import_module(info.name)).items():
                own = isinstance(value, type) and value.__module__ == info.name and not name.startswith("_")
                if base is None:
                    own = own and name.endswith("Mixin")
                elif own:
                    own = issubclass(value, base) and value is not base and name not in _BASES
                if own:
                    yield name, value


def _base(kind: str) -> type | None:
    """What every class of a kind derives from; mixins derive from nothing that others don't."""
    if kind == "mixins":
        return None
    home, name = {
        "metrics": ("torchmetrics", "Metric"),
        "balancing": ("lightning_losses.balancing", "Balancing"),
        "calibrators": ("lightning_losses.calibrators.fitted", "FittedModule"),
        "callbacks": ("lightning.pytorch", "Callback"),
        "decoding": ("lightning_losses.numerics.settings", "Declared"),
        "attacks": ("lightning_losses.attacks.attack", "Attack"),
        "out_of_distribution": ("lightning_losses.out_of_distribution", "OutOfDistributionScore"),
        "test_time": ("lightning_losses.test_time", "TestTimeMethod"),
    }[kind]
    base = getattr(importlib.import_module(home), name)
    assert isinstance(base, type)
    return base
