"""The catalogue as Markdown: needs first, then every loss and part; made of the classes."""

import re
from functools import cache

from lightning_losses.catalogue.losses import STATUS, Entry, catalogue, cost, inputs_line
from lightning_losses.catalogue.needs import NEEDS, Answer
from lightning_losses.catalogue.other_losses import wrapped_losses
from lightning_losses.catalogue.parts import PARTS, Part, parts

# Settings that most losses have, and that say nothing of one.
SHARED = ("ignore_index", "reduction", "shared_support")


@cache
def every_loss() -> list[Entry]:
    """The losses, read from their classes and files once for all pages."""
    return catalogue()


def catalogue_page() -> str:
    """The page."""
    entries = every_loss()
    counts = {status: sum(entry.status == status for entry in entries) for status in STATUS}
    lines = [
        "---",
        "hide: [toc]",
        "---",
        "",
        "# Catalogue",
        "",
        f"{len(entries)} losses: {counts['confirmed']} equal to their authors' code in value and gradient, "
        f"{counts['paper']} from the paper, {counts['experimental']} experimental. Begin with what you need; below "
        "are [all of them](#all-losses). On the command line `lightning-losses choose` asks the same, and "
        "`lightning-losses list` prints the tables, with `--family`, `--needs teacher_logits` and `--json`.",
        "",
        "## Which do I need?",
        "",
        *_needs(),
        "## All losses",
        "",
        "- **Confirmed**: values and gradients equal those of the authors' own code, in float64 "
        "([how](golden_cases.md)). **From the paper**: checked against the source named in the row. **Experimental**: "
        "made from a description, or changed where it matters.",
        "- **Inputs** in brackets are optional. **Cost**: *teacher* needs its outputs beside the network's own; "
        "*layers* needs those of hidden layers; in a *whole batch* the value of a sample depends on the others, on "
        "several processes on those of all.",
        "- **Fused**: what [the kernels](kernels.md) do for a language model's head: *by hand* (or *by hand on CUDA* "
        "alone), *in chunks* of rows by autograd, or *no*.",
        "- **Top-k**: what a teacher of k logits, the others masked by -inf, must keep beside them: *nothing*, or "
        "its *tail*, the probability of the others, which `cache_teacher` keeps. Without a tail `shared_support=true` "
        "compares both networks on the teacher's classes alone.",
        "",
        "Losses: " + ", ".join(f"[{family}](#{anchor(family)})" for family in [*families(), "wrapped"]) + ". "
        "Beside them: " + ", ".join(f"[{kind}](#{kind})" for kind in PARTS) + ".",
        "",
        '<div class="catalogue-filters"></div>',
        "",
        '<div class="catalogue" markdown>',
        "",
    ]
    for family in families():
        lines += [f"## {family_name(family)}", ""]
        lines += ["| id | what it is | inputs | cost | fused | top-k | status |", "|---|---|---|---|---|---|---|"]
        lines += [_loss_row(entry) for entry in entries if entry.family == family] + [""]
    lines += ["## Wrapped", "", "Losses of other libraries, called as they are through a configuration of ours.", ""]
    lines += ["| id | what it is | inputs | cost | wraps |", "|---|---|---|---|---|"]
    lines += [_wrapped_row(entry) for entry in wrapped_losses()] + [""]
    for kind in PARTS:
        lines += [f"## {kind.capitalize()}", "", "| name | what it is | chosen by |", "|---|---|---|"]
        lines += [_part_row(part) for part in parts(kind)] + [""]
    return "\n".join([*lines, "</div>", ""])


def _needs() -> list[str]:
    lines = ['<div class="needs" markdown>', ""]
    for need in NEEDS:
        lines += [f"### {need.sentence} {{ #{need.id} }}", ""]
        if need.answers:
            lines += ["| method | what it does | measured effect | command |", "|---|---|---|---|"]
            lines += [_answer_row(answer) for answer in need.answers] + [""]
        if need.missing:
            lines += [f"*Missing:* {need.missing}", ""]
        # For the search.
        lines += [f"<small>Also called: {', '.join(need.words)}.</small>", ""]
    return [*lines, "</div>", ""]


def _answer_row(answer: Answer) -> str:
    effect = f"[{answer.effect}]({answer.page})" if answer.page else answer.effect
    ids = {entry.id: f"api/losses/{entry.id}.md" for entry in every_loss()}
    name = f"[`{answer.method}`]({ids[answer.method]})" if answer.method in ids else f"`{answer.method}`"
    return row(name, f"{answer.what}.", effect, f"`{answer.command}`")


def families() -> list[str]:
    """The families that hold losses themselves."""
    return sorted({entry.family for entry in every_loss()})


def family_name(family: str) -> str:
    """A family's heading."""
    return family.replace("/", ": ").replace("_", " ").capitalize()


def anchor(family: str) -> str:
    """What mkdocs makes of the heading."""
    return re.sub(r"[/_]", "-", family)


def configurations(entry: Entry) -> str:
    """The objectives that are named after a loss, with links to their files."""
    return " ".join(f"[`objective={name}`](../conf/objective/{name}.yaml)" for name in entry.configs)


def _loss_row(entry: Entry) -> str:
    name = f"[`{entry.id}`](api/losses/{entry.id}.md)<br>`{entry.name}`"
    paper = re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", entry.paper)
    ranges = "; ".join(f"`{name}`: {what}" for name, what in entry.settings.items() if name not in SHARED)
    what = f"{entry.summary}.<br><small>{paper}</small><br>{configurations(entry) or 'part of another objective'}"
    what += f"<br><small>{ranges}</small>" if ranges else ""
    status = f"{STATUS[entry.status]}<br><small>{repositories(entry.evidence)}</small>"
    return row(name, what, inputs_line(entry), cost(entry), entry.fused, entry.top_k or "–", status)


def _wrapped_row(entry: Entry) -> str:
    wraps = f"`{entry.module}.{entry.name}`"
    return row(f"`{entry.id}`", f"{entry.summary}.<br>{configurations(entry)}", inputs_line(entry), cost(entry), wraps)


def repositories(evidence: str) -> str:
    """Evidence with links to the repositories that it names."""
    return re.sub(r"\b([\w.-]+/[\w.-]*[A-Za-z][\w-]*)", r"[\1](https://github.com/\1)", evidence)


def _part_row(part: Part) -> str:
    page = f"api/{part.module.split('.')[1]}.md#{part.module}.{part.name}"
    return row(f"[`{part.name}`]({page})", f"{part.summary}.", " ".join(f"`{choice}`" for choice in part.configs))


def row(*cells: str) -> str:
    """A row of a table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
