"""The table of every loss that the library offers, built from the classes themselves."""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files

from omegaconf import DictConfig, OmegaConf
from rich import box
from rich.table import Table

from lightning_losses.losses import loss_classes
from lightning_losses.losses.base import Loss, Status


@dataclass(frozen=True)
class Entry:
    """One loss.

    Attributes:
        id: the snake_case name of its file, test and configuration.
        name: the class.
        family: the folder of losses that it stands in.
        summary: the first sentence of its documentation.
        inputs: the tensors that it takes, by their names in the glossary; True where it can't do without.
        batch_coupled: whether the value of one sample depends on the others in the batch.
        status: "confirmed" against the authors' code, from the "paper" alone, or "experimental".
        configs: the objectives in ``conf/objective/`` that are named after it.
    """

    id: str
    name: str
    family: str
    summary: str
    inputs: dict[str, bool]
    batch_coupled: bool
    status: Status
    configs: tuple[str, ...]


def catalogue() -> list[Entry]:
    """Every loss, by family and id.

    Example:
        >>> next(entry for entry in catalogue() if entry.id == "kd").inputs
        {'logits': True, 'teacher_logits': True, 'target': False}
    """
    configs = dict[str, list[str]]()
    for objective, class_name in sorted(_named_terms()):
        configs.setdefault(class_name, []).append(objective)
    return [
        Entry(
            loss.identifier(),
            loss.__name__,
            loss.__module__.split(".")[-2],
            _summary(loss),
            loss.inputs(),
            loss.batch_coupled,
            loss.status,
            tuple(configs.get(loss.__name__, ())),
        )
        for loss in loss_classes()
    ]


def catalogue_table(entries: list[Entry]) -> Table:
    """The catalogue for the terminal; optional inputs are in brackets."""
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("id", "class", "what it is", "inputs", "batch-coupled", "status", "objective="):
        table.add_column(name, overflow="fold", no_wrap=name in ("id", "class", "objective="))
    family = ""
    for entry in entries:
        if entry.family != family:
            family = entry.family
            table.add_section()
            table.add_row(f"[bold]{family}[/bold]")
        inputs = ", ".join(name if required else rf"\[{name}]" for name, required in entry.inputs.items())
        table.add_row(
            entry.id,
            entry.name,
            entry.summary,
            inputs,
            "yes" if entry.batch_coupled else "no",
            entry.status,
            ", ".join(entry.configs) or "–",
        )
    return table


def _named_terms() -> Iterator[tuple[str, str]]:
    """The objectives' names, and the class of the term that has the same name."""
    for path in (files("lightning_losses.conf") / "objective").iterdir():
        name, _, suffix = path.name.rpartition(".")
        if suffix != "yaml":
            continue
        config = OmegaConf.create(path.read_text())
        term = OmegaConf.select(config, f"terms.{name}.loss._target_") if isinstance(config, DictConfig) else None
        if term is not None:
            yield name, str(term).rpartition(".")[2]


def _summary(loss: type[Loss]) -> str:
    return (loss.__doc__ or "").strip().splitlines()[0].rstrip(".")
