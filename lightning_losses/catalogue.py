"""The table of everything that the library offers, built from the classes themselves."""

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from omegaconf import OmegaConf
from rich import box
from rich.markup import escape
from rich.table import Table

from lightning_losses.kernels.hand_written import evaluator_of
from lightning_losses.losses import loss_classes
from lightning_losses.losses.base import Loss, Status

STATUS = {
    "confirmed": "confirmed against the authors' code",
    "paper": "from the paper",
    "experimental": "experimental",
}
# What else there is beside losses, and the package that it stands in.
PARTS = {
    "metrics": "metrics",
    "calibrators": "calibration",
    "callbacks": "callbacks",
    "mixins": "mixins",
    "samplers": "samplers",
    "kernels": "kernels",
}
# What others derive from, and nobody uses by itself.
_BASES = {"LogitMonitor", "Monitor", "OneVsRest", "PredictionMetric", "ProbeMonitor"}
_ARGUMENTS_OF_A_ROW = {"logits", "target", "teacher_logits"}


@dataclass(frozen=True)
class Entry:
    """One loss.

    Attributes:
        id: the snake_case name of its file, test and configuration.
        name: the class.
        module: where the class is defined.
        family: the folder of losses that it stands in.
        summary: the first sentence of its documentation.
        paper: authors, year, title, and arXiv id if there is one.
        inputs: the tensors that it takes, by their names in the glossary; True where it can't do without.
        batch_coupled: whether the value of one sample depends on the others in the batch.
        fused: "by hand" where a kernel has its gradient without holding the logits, "in chunks" where autograd takes
            a chunk of rows at a time, "no" where it sees the whole batch, takes other tensors, or learns parameters.
        status: "confirmed" against the authors' code, from the "paper" alone, "experimental", or another library's,
            "wrapped".
        evidence: what its numbers are compared with.
        configs: the objectives in ``conf/objective/`` that are named after it.
    """

    id: str
    name: str
    module: str
    family: str
    summary: str
    paper: str
    inputs: dict[str, bool]
    batch_coupled: bool
    fused: str
    status: Status | Literal["wrapped"]
    evidence: str
    configs: tuple[str, ...]


@dataclass(frozen=True)
class Part:
    """A metric, calibrator, callback, mixin, sampler or kernel.

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


def catalogue(family: str | None = None, needs: str | None = None) -> list[Entry]:
    """Every loss, by family and id.

    Args:
        family: only the losses of this family.
        needs: only the losses that can't do without this tensor.

    Example:
        >>> next(entry for entry in catalogue() if entry.id == "kd").inputs
        {'logits': True, 'teacher_logits': True, 'target': False}
        >>> "nkd" in [entry.id for entry in catalogue("distillation", needs="teacher_logits")]
        True
    """
    configs = dict[str, list[str]]()
    for objective, class_name in sorted(_named_terms()):
        configs.setdefault(class_name, []).append(objective)
    entries = [_entry(loss, tuple(configs.get(loss.__name__, ()))) for loss in loss_classes()]
    _check("family", family, {entry.family for entry in entries})
    _check("needs", needs, {name for entry in entries for name in entry.inputs})
    return [entry for entry in entries if family in (None, entry.family) and (needs is None or entry.inputs.get(needs))]


def families() -> list[str]:
    """The families of losses.

    Example:
        >>> "distillation" in families()
        True
    """
    return sorted({loss.__module__.split(".")[-2] for loss in loss_classes()})


def parts(kind: str) -> list[Part]:
    """Every metric, calibrator, callback, mixin, sampler or kernel, by name.

    Args:
        kind: one of `PARTS`.

    Example:
        >>> [part.configs for part in parts("calibrators") if part.name == "MatrixScaling"]
        [('calibrator=matrix',)]
    """
    _check("kind", kind, set(PARTS))
    made = _targets()
    return [
        Part(
            name,
            value.__module__,
            kind,
            summary_of(value),
            tuple(choice for choice, targets in made.items() if name in targets),
        )
        for name, value in sorted(_offered(kind), key=lambda pair: pair[0].lower())
    ]


def catalogue_table(entries: list[Entry]) -> Table:
    """The catalogue for the terminal; optional inputs are in brackets."""
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("id", "class", "what it is", "inputs", "batch-coupled", "fused", "status", "objective="):
        table.add_column(name, overflow="fold", no_wrap=name in ("id", "class", "status", "objective="))
    family = ""
    for entry in entries:
        if entry.family != family:
            family = entry.family
            table.add_section()
            table.add_row(f"[bold]{family}[/bold]")
        table.add_row(
            entry.id,
            entry.name,
            escape(entry.summary),
            escape(inputs_line(entry)),
            "yes" if entry.batch_coupled else "no",
            entry.fused,
            entry.status,
            ", ".join(entry.configs) or "–",
        )
    return table


def parts_table(found: list[Part]) -> Table:
    """Parts of one kind for the terminal."""
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("name", "what it is", "chosen by"):
        table.add_column(name, overflow="fold", no_wrap=name == "name")
    for part in found:
        table.add_row(part.name, escape(part.summary), ", ".join(part.configs) or "–")
    return table


def inputs_line(entry: Entry) -> str:
    """The tensors that a loss takes, those that it can do without in brackets."""
    return ", ".join(name if required else f"[{name}]" for name, required in entry.inputs.items())


def _entry(loss: type[Loss], configs: tuple[str, ...]) -> Entry:
    return Entry(
        loss.identifier(),
        loss.__name__,
        loss.__module__,
        loss.__module__.split(".")[-2],
        summary_of(loss),
        paper_of(loss),
        loss.inputs(),
        loss.batch_coupled,
        _fused(loss),
        loss.status,
        loss.evidence,
        configs,
    )


def _check(argument: str, value: str | None, known: set[str]) -> None:
    if value is not None and value not in known:
        raise ValueError(f"catalogue: {argument}={value!r} came; choose one of {', '.join(sorted(known))}.")


def _fused(loss: type[Loss]) -> str:
    required = {name for name, needed in loss.inputs().items() if needed}
    options = {p.name for p in inspect.signature(loss).parameters.values() if p.default is inspect.Parameter.empty}
    if loss.batch_coupled or "logits" not in required or not required <= _ARGUMENTS_OF_A_ROW:
        return "no"
    if not options <= {"num_classes"}:
        return "no"
    example = loss(**dict.fromkeys(options, 2))
    # As `chunked_head` asks: rows by themselves, and nothing to learn.
    if "reduction" not in vars(example) or any(parameter.requires_grad for parameter in example.parameters()):
        return "no"
    return "in chunks" if evaluator_of(example) is None else "by hand"


def _named_terms() -> Iterator[tuple[str, str]]:
    """The objectives' names, and the class of the term that has the same name."""
    for choice, config in _configurations().items():
        group, _, name = choice.partition("=")
        term = OmegaConf.select(config, f"terms.{name}.loss._target_") if group == "objective" else None
        if term is not None:
            yield name, str(term).rpartition(".")[2]


@cache
def _configurations() -> dict[str, Any]:
    """What every file in the groups of ``conf/`` holds, by ``group=name``."""
    found = {}
    for group in sorted(files("lightning_losses.conf").iterdir(), key=lambda path: path.name):
        if group.is_dir():
            for path in sorted(group.iterdir(), key=lambda path: path.name):
                if path.name.endswith(".yaml"):
                    found[f"{group.name}={path.name.removesuffix('.yaml')}"] = OmegaConf.create(path.read_text())
    return found


@cache
def _targets() -> dict[str, set[str]]:
    """The names of the classes that each choice makes."""

    def walk(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            if isinstance(value.get("_target_"), str):
                yield value["_target_"].rpartition(".")[2]
            for item in value.values():
                yield from walk(item)
        elif isinstance(value, list):
            for item in value:
                yield from walk(item)

    return {
        choice: set(walk(OmegaConf.to_container(config)))
        for choice, config in _configurations().items()
        # An experiment uses what a group offers.
        if not choice.startswith("experiment=")
    }


def _offered(kind: str) -> Iterator[tuple[str, Any]]:
    """The names and objects of one kind."""
    package = importlib.import_module(f"lightning_losses.{PARTS[kind]}")
    if kind == "kernels":
        root = importlib.import_module("lightning_losses")
        yield from ((name, getattr(root, name)) for name, home in root._HOME.items() if home.startswith("kernels."))
    elif kind == "samplers":
        yield from ((name, getattr(package, name)) for name in package.__all__)
    else:
        base = _base(kind)
        for info in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            for name, value in vars(importlib.import_module(info.name)).items():
                own = isinstance(value, type) and value.__module__ == info.name and not name.startswith("_")
                if own and (name.endswith("Mixin") if base is None else _is_concrete(value, base)):
                    yield name, value


def _base(kind: str) -> type | None:
    """What every class of a kind derives from; mixins derive from nothing that others don't."""
    if kind == "mixins":
        return None
    home, name = {
        "metrics": ("torchmetrics", "Metric"),
        "calibrators": ("lightning_losses.calibrators", "Calibrator"),
        "callbacks": ("lightning.pytorch", "Callback"),
    }[kind]
    base = getattr(importlib.import_module(home), name)
    assert isinstance(base, type)
    return base


def _is_concrete(value: type, base: type) -> bool:
    return issubclass(value, base) and value is not base and value.__name__ not in _BASES


def summary_of(documented: Any) -> str:
    """The first sentence of a documentation."""
    text = inspect.cleandoc(documented.__doc__ or "").partition("\n\n")[0]
    return " ".join(text.split()).rstrip(".")


def paper_of(loss: type[Loss]) -> str:
    """What the Source section cites first: up to its arXiv id, or its title's closing quote."""
    text = inspect.cleandoc(loss.__doc__ or "").partition("\nSource:\n")[2].partition("\n\n")[0]
    cited = re.match(r'.*?"[^"]+"(?:, arXiv:\d{4}\.\d{4,5})?', " ".join(text.split()))
    return cited[0] if cited else ""
