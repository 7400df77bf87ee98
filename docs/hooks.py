"""What mkdocs builds beside the pages of this folder: the catalogue, the API, the results, and the files they name."""

import json
import posixpath
import re
import shutil
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import Abort
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from lightning_losses.catalogue.losses import STATUS, Entry, catalogue, inputs_line
from lightning_losses.catalogue.other_losses import wrapped_losses
from lightning_losses.catalogue.parts import PARTS, Part, parts
from lightning_losses.experiments.messages import message, refused

ROOT = Path(__file__).parents[1]
# Files of the repository outside this folder, as pages.
PAGES = {"results.md": "RESULTS.md", "changelog.md": "CHANGELOG.md"}
# The folders of pages that recipes and benchmarks write.
RESULTS = ("results", "benchmarks")
# What stands outside the rooms that make a page of the API each, and has one together.
CORE = ("losses.adapted", "losses.base", "losses.registered", "environment.cache_folder")
# The rooms whose modules make a page of the API each, or, the first two, stand on the page of the core.
ROOMS = str.split(
    "objective numerics teachers mixins modules callbacks checkpoints metrics calibrators kernels transport optim "
    "samplers diagnostics networks data plots parallel"
)
# Settings that most losses have, and that say nothing of one.
SHARED = ("ignore_index", "reduction", "shared_support")
# The folder of the site that is built; who hears of an error is not told it.
_site: list[str] = []
# What a link leads to, if not away or to a place on its page.
LINK = re.compile(r"\]\((?!\w+:)([^)#\s]+)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill in the pages that are not written by hand: those of the experiments, and the API's."""
    assert config.nav is not None
    _site[:] = [config.site_dir]
    for section in config.nav:
        if "Results" in section:
            pages = [path for folder in RESULTS for path in sorted((ROOT / "docs" / folder).glob("*.md"))]
            section["Results"] += [_heading(path) for path in pages]
        if "API" in section:
            section["API"] = [{title: path} for title, path, _ in _api()]
    return config


def _heading(path: Path) -> dict[str, str]:
    """A page by its heading."""
    title = path.read_text().partition("\n")[0].removeprefix("# ")
    return {title: path.relative_to(ROOT / "docs").as_posix()}


def on_build_error(error: Exception) -> None:
    """Leave in one sentence where the disk or the folder of the site refuses it; half a site is removed."""
    if isinstance(error, OSError) and refused(error):
        shutil.rmtree(_site[0], ignore_errors=True)
        raise Abort(f"{message(error)} When that is mended, the same command builds the site.")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made of the classes, and the files of the repository that pages name."""
    made = {path: text for _, path, text in _api()}
    made["catalogue.md"] = catalogue_page()
    made |= {page: (ROOT / source).read_text() for page, source in PAGES.items()}
    texts = made | {file.src_uri: file.content_string for file in files.documentation_pages()}
    named = {_target(link, page) for page, text in texts.items() for link in LINK.findall(text)}
    outside = {name for name in named if not name.startswith("docs/")} - set(PAGES.values())
    made |= {f"source/{name}.txt": (ROOT / name).read_text() for name in sorted(outside)}
    for path, text in made.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point the links of files outside this folder, and those that leave it, at what stands in their place."""
    uri = page.file.src_uri
    if uri == "golden_cases.md":
        markdown += golden_sources()
    return LINK.sub(lambda found: f"]({_place(_target(found[1], uri), uri)}", markdown)


def _target(link: str, page: str) -> str:
    """What a page's link leads to, from the root of the repository."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(PAGES.get(page, f"docs/{page}")), link))


def _place(target: str, page: str) -> str:
    """Where that is among the pages, from one of them."""
    sources = {source: uri for uri, source in PAGES.items()}
    uri = target.removeprefix("docs/") if target.startswith("docs/") else sources.get(target, f"source/{target}.txt")
    return posixpath.relpath(uri, posixpath.dirname(page))


@cache
def _api() -> list[tuple[str, str, str]]:
    """Title, path and text of each page of the API."""
    package = ROOT / "lightning_losses"
    core = [*CORE, *(module for room in ROOMS[:2] for module in _modules(package / room))]
    pages = [("lightning_losses", "api/core.md", _page("lightning_losses", core))]
    for family in _families():
        title = f"losses.{family.replace('/', '.')}"
        found = _modules(package / "losses" / family)
        pages.append((title, f"api/{_family_page(family)}", _page(f"lightning_losses.{title}", found)))
    for room in ROOMS[2:]:
        pages.append((room, f"api/{room}.md", _page(f"lightning_losses.{room}", _modules(package / room))))
    return pages


def _families() -> list[str]:
    """The families that hold losses themselves."""
    return sorted({entry.family for entry in catalogue()})


def _family_page(family: str) -> str:
    return f"losses_{family.replace('/', '_')}.md"


def _modules(folder: Path) -> list[str]:
    package = ROOT / "lightning_losses"
    paths = sorted(path for path in folder.rglob("*.py") if not path.stem.startswith("_"))
    return [".".join(path.relative_to(package).with_suffix("").parts) for path in paths]


def _page(title: str, modules: list[str]) -> str:
    return f"# {title}\n\n" + "\n".join(f"::: lightning_losses.{module}\n" for module in modules)


@cache
def golden_cases() -> list[dict[str, Any]]:
    """The entries of every manifest of golden cases."""
    manifests = sorted((ROOT / "tests" / "golden").glob("*/manifest.json"))
    return [entry for manifest in manifests for entry in json.loads(manifest.read_text())]


def golden_sources() -> str:
    """Who computed the golden cases, as a table."""
    cases = defaultdict[str, list[str]](list)
    for entry in golden_cases():
        cases[entry["source"]].append(entry["id"])
    lines = ["", "| source | cases |", "|---|---|"]
    lines += [
        _row(_repositories(source.replace("::", ": ")), " ".join(f"`{case}`" for case in ids))
        for source, ids in sorted(cases.items(), key=lambda item: item[0].lower())
    ]
    return "\n".join([*lines, ""])


def catalogue_page() -> str:
    """The catalogue as Markdown."""
    entries = catalogue()
    counts = {status: sum(entry.status == status for entry in entries) for status in STATUS}
    lines = [
        "---",
        "hide: [toc]",
        "---",
        "",
        "# Catalogue",
        "",
        f"{len(entries)} losses: {counts['confirmed']} confirmed against the authors' code, {counts['paper']} from the "
        f"paper, {counts['experimental']} experimental. The page is made of the classes; so is what "
        "`lightning-losses list` prints, with `--family`, `--needs teacher_logits` and `--json`.",
        "",
        "- **Confirmed**: values and gradients of the authors' own code, in float64, are among the tests. "
        "**From the paper**: compared with what the line says in place of it. **Experimental**: made from a "
        "description, or changed where it matters.",
        "- Inputs in brackets may be left out. **Batch-coupled**: a sample's value depends on the others in the batch; "
        "on many processes the batch is that of all. **Fused**: what [the kernels](kernels.md) do for a language "
        "model's head: *by hand* (or *by hand on CUDA* alone), *in chunks* of rows by autograd, or *no*.",
        "- **Top-k**: what a teacher of k logits, the others masked by -inf, must come with: *nothing*, or its *tail*, "
        "the probability of the others, which `cache_teacher` keeps. Without a tail `shared_support=true` compares "
        "both networks on the teacher's classes alone.",
        "",
        "Losses: " + ", ".join(f"[{family}](#{_anchor(family)})" for family in [*_families(), "wrapped"]) + ". "
        "Beside them: " + ", ".join(f"[{kind}](#{kind})" for kind in PARTS) + ".",
        "",
        '<div class="catalogue" markdown>',
        "",
    ]
    for family in _families():
        lines += [f"## {_family_name(family)}", ""]
        lines += ["| id | what it is | inputs | coupled | fused | top-k | status |", "|---|---|---|---|---|---|---|"]
        lines += [_loss_row(entry) for entry in entries if entry.family == family] + [""]
    lines += ["## Wrapped", "", "Losses of other libraries, called as they are through a configuration of ours.", ""]
    lines += ["| id | what it is | inputs | coupled | wraps |", "|---|---|---|---|---|"]
    lines += [_wrapped_row(entry) for entry in wrapped_losses()] + [""]
    for kind in PARTS:
        lines += [f"## {kind.capitalize()}", "", "| name | what it is | chosen by |", "|---|---|---|"]
        lines += [_part_row(part) for part in parts(kind)] + [""]
    return "\n".join([*lines, "</div>", ""])


def _family_name(family: str) -> str:
    return family.replace("/", ": ").replace("_", " ").capitalize()


def _anchor(family: str) -> str:
    """What mkdocs makes of the heading."""
    return re.sub(r"[/_]", "-", family)


def _loss_row(entry: Entry) -> str:
    configs = " ".join(f"[`objective={name}`](../conf/objective/{name}.yaml)" for name in entry.configs)
    name = f"`{entry.id}`<br>[`{entry.name}`](api/{_family_page(entry.family)}#{entry.module}.{entry.name})"
    paper = re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", entry.paper)
    ranges = "; ".join(f"`{name}`: {what}" for name, what in entry.settings.items() if name not in SHARED)
    what = f"{entry.summary}.<br><small>{paper}</small><br>{configs or 'part of another objective'}"
    what += f"<br><small>{ranges}</small>" if ranges else ""
    status = f"{STATUS[entry.status]}<br><small>{_repositories(entry.evidence)}</small>"
    coupled = "yes" if entry.batch_coupled else "no"
    return _row(name, what, inputs_line(entry), coupled, entry.fused, entry.top_k or "–", status)


def _wrapped_row(entry: Entry) -> str:
    config = f"[`objective={entry.id}`](../conf/objective/{entry.id}.yaml)"
    coupled = "yes" if entry.batch_coupled else "no"
    return _row(
        f"`{entry.id}`", f"{entry.summary}.<br>{config}", inputs_line(entry), coupled, f"`{entry.module}.{entry.name}`"
    )


def _repositories(evidence: str) -> str:
    """Evidence with links to the repositories that it names."""
    return re.sub(r"\b([\w.-]+/[\w.-]*[A-Za-z][\w-]*)", r"[\1](https://github.com/\1)", evidence)


def _part_row(part: Part) -> str:
    page = f"api/{part.module.split('.')[1]}.md#{part.module}.{part.name}"
    return _row(f"[`{part.name}`]({page})", f"{part.summary}.", " ".join(f"`{choice}`" for choice in part.configs))


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
