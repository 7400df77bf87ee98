"""The table of every loss, built from the classes themselves."""

import inspect
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

from omegaconf import OmegaConf
from rich import box
from rich.markup import escape
from rich.table import Table

from lightning_losses.catalogue.configurations import configurations
from lightning_losses.kernels.rows.row_wise import fused
from lightning_losses.losses import loss_classes
from lightning_losses.losses.base import Loss, Status
from lightning_losses.numerics.settings import settings

STATUS = {
    "confirmed": "confirmed against the authors' code",
    "paper": "from the paper",
    "experimental": "experimental",
}


@dataclass(frozen=True)
class Entry:
    """One loss.

    Attributes:
        id: the snake_case name of its file, test and configuration.
        name: the class.
        module: where the class is defined.
        family: the folder of losses that it stands in, such as "distillation/logits".
        summary: the first sentence of its documentation.
        paper: authors, year, title, and arXiv id if there is one.
        inputs: the tensors that it takes, by their names in the glossary; True where it can't do without.
        settings: what its constructor takes by name, each with its default and its range in words; empty for another
            library's.
        batch_coupled: whether the value of one sample depends on the others in the batch.
        fused: "by hand" where a kernel has its gradient without holding the logits, or "by hand on CUDA" where only
            one of a GPU has; "in chunks" where autograd takes a chunk of rows at a time, "no" where it sees the whole
            batch, takes other tensors, or learns parameters.
        top_k: of a loss with a teacher's logits, what a teacher of k logits alone must come with: "nothing" where the
            value is finite though it masks the others; "tail" where it would be infinite, so that the teacher should
            keep their probability, or the loss take `shared_support`; empty without such a teacher.
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
    settings: dict[str, str]
    batch_coupled: bool
    fused: str
    top_k: str
    status: Status | Literal["wrapped"]
    evidence: str
    configs: tuple[str, ...]


def catalogue(family: str | None = None, needs: str | None = None) -> list[Entry]:
    """Every loss, by family and id.

    Args:
        family: only the losses of this family, or of those in this folder of families.
        needs: only the losses that can't do without this tensor.

    Example:
        >>> next(entry for entry in catalogue() if entry.id == "kd").inputs
        {'logits': True, 'teacher_logits': True, 'target': False}
        >>> "nkd" in [entry.id for entry in catalogue("distillation/logits", needs="teacher_logits")]
        True
        >>> len(catalogue("distillation")) > len(catalogue("distillation/logits"))
        True
    """
    # By the class of the term that has the objective's name.
    configs = dict[str, list[str]]()
    for choice, config in sorted(configurations().items()):
        group, _, name = choice.partition("=")
        term = OmegaConf.select(config, f"terms.{name}.loss._target_") if group == "objective" else None
        if term is not None:
            configs.setdefault(str(term).rpartition(".")[2], []).append(name)
    entries = [
        entry_of(loss, loss.identifier(), _family(loss), fused(loss), tuple(configs.get(loss.__name__, ())))
        for loss in loss_classes()
    ]
    check_known("family", family, set(families()))
    check_known("needs", needs, {name for entry in entries for name in entry.inputs})
    return [
        entry
        for entry in entries
        if (family is None or f"{entry.family}/".startswith(f"{family}/"))
        and (needs is None or entry.inputs.get(needs))
    ]


def families() -> list[str]:
    """The families of losses, and the folders that hold several of them.

    Example:
        >>> [family for family in families() if family.startswith("distillation")][:2]
        ['distillation', 'distillation/divergences']
    """
    own = {PurePosixPath(_family(loss)) for loss in loss_classes()}
    above = {folder for family in own for folder in family.parents if folder.name}
    return sorted(map(str, own | above))


def catalogue_table(entries: list[Entry]) -> Table:
    """The catalogue for the terminal; optional inputs are in brackets."""
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("id", "class", "what it is", "inputs", "batch-coupled", "fused", "top-k", "status", "objective="):
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
            entry.top_k or "–",
            entry.status,
            ", ".join(entry.configs) or "–",
        )
    return table


def inputs_line(entry: Entry) -> str:
    """The tensors that a loss takes, optional ones in brackets."""
    return ", ".join(name if required else f"[{name}]" for name, required in entry.inputs.items())


def cost(entry: Entry) -> str:
    """What a loss needs beside the network's own logits, from the cheapest on.

    Example:
        >>> [cost(entry) for entry in catalogue() if entry.id in ("brier", "rkd")]
        ['one network', 'teacher, layers, whole batch']
    """
    required = [name for name, needed in entry.inputs.items() if needed]
    parts = {
        "teacher": any(name.startswith("teacher_") for name in required),
        "layers": any("feature" in name for name in required),
        "whole batch": entry.batch_coupled,
    }
    chosen = [part for part, needed in parts.items() if needed]
    return ", ".join(chosen if parts["teacher"] else ["one network", *chosen])


def _family(loss: type[Loss]) -> str:
    return "/".join(loss.__module__.split(".")[2:-1])


def entry_of(loss: type[Loss], name: str, family: str, how_fused: str, configs: tuple[str, ...] = ()) -> Entry:
    """The line of a class, under a name and in a family."""
    return Entry(
        name,
        loss.__name__,
        loss.__module__,
        family,
        summary_of(loss),
        paper_of(loss),
        loss.inputs(),
        settings_of(loss),
        loss.batch_coupled,
        how_fused,
        top_k_of(loss),
        loss.status,
        loss.evidence,
        configs,
    )


def top_k_of(loss: type[Loss]) -> str:
    """What this loss needs beside the k logits of a top-k teacher; see `Entry`.

    Example:
        >>> from lightning_losses.losses import KD, Brier, ReverseKL
        >>> top_k_of(KD), top_k_of(ReverseKL), top_k_of(Brier)
        ('nothing', 'tail', '')
    """
    if "teacher_logits" not in loss.inputs():
        return ""
    return "tail" if getattr(loss, "needs_tail", False) else "nothing"


def check_known(argument: str, value: str | None, known: set[str]) -> None:
    """Raise ``ValueError`` unless `value` is None or one of `known`."""
    if value is not None and value not in known:
        raise ValueError(f"catalogue: {argument}={value!r} came; choose one of {', '.join(sorted(known))}.")


def settings_of(loss: type[Loss]) -> dict[str, str]:
    """The settings of a loss, each with its default and its range.

    Example:
        >>> from lightning_losses.losses import NKD
        >>> settings_of(NKD)["gamma"]
        '1.5, at least 0'
    """
    defaults = {each.name: "required" if each.required else repr(each.default) for each in settings(loss)}
    return {each.name: ", ".join(filter(None, [defaults[each.name], each.range()])) for each in settings(loss)}


def summary_of(documented: Any) -> str:
    """The first sentence of a docstring."""
    text = inspect.cleandoc(documented.__doc__ or "").partition("\n\n")[0]
    return " ".join(text.split()).rstrip(".")


def paper_of(loss: type[Loss]) -> str:
    """What the Source section cites first: up to its arXiv id, or its title's closing quote."""
    text = inspect.cleandoc(loss.__doc__ or "").partition("\nSource:\n")[2].partition("\n\n")[0]
    cited = re.match(r'.*?"[^"]+"(?:, arXiv:\d{4}\.\d{4,5})?', " ".join(text.split()))
    return cited[0] if cited else ""
