"""The pages of the API: one for each loss, one for each family, one for each room; made of the classes."""

import html
import inspect
import json
import re
import tomllib
from collections import defaultdict
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any

from catalogue_page import configurations, every_loss, families, family_name, repositories, row
from omegaconf import OmegaConf

from lightning_losses import losses
from lightning_losses.catalogue.losses import STATUS, Entry, cost
from lightning_losses.catalogue.needs import NEEDS, NOT_MEASURED, Answer
from lightning_losses.experiments.comparison.shown_numbers import COSTS, shown
from lightning_losses.losses.glossary import GLOSSARY

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lightning_losses"
# What stands outside the rooms that make a page of the API each, and has one together.
CORE = ("losses.adapted", "losses.base", "losses.registered", "environment.cache_folder")
# The rooms with what a reader does first in each. The first two stand on the page of the core.
ROOMS = {
    "objective": "",
    "numerics": "",
    "balancing": "First: `Objective({...}, balancing=PCGrad())`; [balancing](../balancing.md).",
    "teachers": "First: `timm_teacher(name, num_classes=...)` for a timm network, or "
    "`checkpoint_teacher(file, network)` for weights of your own; both are used by [distillation](../distillation.md).",
    "mixins": "First: `DistillationMixin` before `LightningModule` in a class, with `self.teacher` and "
    "`self.objective` set; [an example](../your_lightning_project.md).",
    "modules": "First: `Classifier(network, objective=..., num_classes=...)`, or `Distiller` with a teacher: "
    "modules that are complete.",
    "callbacks": "First: add one to `Trainer(callbacks=[...])`; the recipes take them by `callbacks=`.",
    "checkpoints": "First: `Trainer(callbacks=[LastCheckpoint(folder)])`, which resumes an interrupted run "
    "bitwise; [more](../scale.md).",
    "metrics": 'First: `calibration_summary(logits, target, inputs="logits")`, all scores in one call; '
    "[calibration](../calibration.md).",
    "calibrators": "First: `TemperatureScaling().fit(logits, target)` on validation data, then call it on test "
    "logits; [calibration](../calibration.md).",
    "kernels": "First: `linear_cross_entropy(hidden, head.weight, tokens)` in place of a head and its "
    "cross-entropy, on a GPU or a CPU; [fused losses](../kernels.md).",
    "decoding": "First: `generate(network, prompts, max_new_tokens)`; [decoding](../decoding.md).",
    "out_of_distribution": "First: `Energy()(network, inputs)`; [out of distribution]"
    "(../robustness.md#out-of-distribution).",
    "test_time": "First: `with Adaptation(network, Tent()): network(inputs)`; [shift at test time]"
    "(../robustness.md#shift-at-test-time).",
    "attacks": "First: `PGD(epsilon=0.3, step_size=0.02, steps=20)(network, inputs, target)`; "
    "[robustness](../robustness.md).",
    "transduction": "First: `LaplacianKMeans()(support, target, queries)`; [transduction]"
    "(../robustness.md#transduction).",
    "transport": "First: `sharp_cost(sinkhorn(cost, epsilon=0.1))`, the cost of the entropic plan, with its gradient.",
    "optim": "First: `warmup_cosine(optimizer, total_steps=...)`. The other functions are called by "
    "[callbacks](callbacks.md).",
    "samplers": "First: `DataLoader(dataset, sampler=DomainSampler(...))`.",
    "diagnostics": "First: the monitors in [callbacks](callbacks.md), which call these functions during training.",
    "networks": "First: `model=small_cnn` on the command line; these are the classes behind such names.",
    "data": "First: `data=digits` on the command line; these are the classes behind such names.",
    "plots": "First: `save_figure(reliability_diagram(...), 'reliability.png')`; "
    "[calibration](../calibration.md) has the whole example.",
    "parallel": "First: `trainer=ddp` or `trainer=fsdp` on the command line ([many processes](../scale.md)); these "
    "functions are what mixins call then.",
}
_NAMES: dict[str, str] = json.loads((ROOT / "tests" / "golden" / "loss_names.json").read_text())


@cache
def api() -> dict[str, str]:
    """The text of each page by its path, in the order of the navigation."""
    core = [*CORE, *(module for room in list(ROOMS)[:2] for module in _modules(PACKAGE / room))]
    pages = {"api/core.md": _page("lightning_losses", core, "First: `Objective({...})` of named terms.")}
    for family in families():
        pages[family_path(family)] = _family_page(family)
        pages |= {f"api/losses/{entry.id}.md": _loss_page(entry) for entry in every_loss() if entry.family == family}
    for room, first in list(ROOMS.items())[2:]:
        pages[f"api/{room}.md"] = _page(room, _modules(PACKAGE / room), first)
    return pages


def navigation() -> list[dict[str, Any]]:
    """The pages of the API as mkdocs wants them."""
    pages = [
        {
            family_name(family): [
                family_path(family),
                *({entry.name: f"api/losses/{entry.id}.md"} for entry in every_loss() if entry.family == family),
            ]
        }
        for family in families()
    ]
    return [
        {"lightning_losses": "api/core.md"},
        {"Losses": pages},
        *({room: f"api/{room}.md"} for room in list(ROOMS)[2:]),
    ]


def family_path(family: str) -> str:
    """Where the page of a family is."""
    return f"api/{family.replace('/', '_')}_losses.md"


def _modules(folder: Path) -> list[str]:
    paths = sorted(path for path in folder.rglob("*.py") if not path.stem.startswith("_"))
    return [".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in paths]


def _page(title: str, modules: list[str], first: str) -> str:
    return f"# {title}\n\n{first}\n\n" + "\n".join(f"::: lightning_losses.{module}\n" for module in modules)


def _family_page(family: str) -> str:
    entries = [entry for entry in every_loss() if entry.family == family]
    lines = [f"# {family_name(family)}", ""]
    lines += [f"First: {first}, or the class in a loop of your own.", ""] if (first := _first(entries)) else []
    lines += ["| loss | what it is | status |", "|---|---|---|"]
    lines += [row(f"[`{each.name}`](losses/{each.id}.md)", f"{each.summary}.", each.status) for each in entries]
    own = {entry.module.removeprefix("lightning_losses.") for entry in entries}
    others = [module for module in _modules(PACKAGE / "losses" / family) if module not in own]
    return "\n".join([*lines, "", *(f"::: lightning_losses.{module}\n" for module in others)])


def _first(entries: list[Entry]) -> str:
    """What to try first of a family: what a need names first, else a loss that is not experimental."""
    named = [(entry, answer) for need in NEEDS for answer in need.answers for entry in entries
             if _answers((answer,), entry)]  # fmt: skip
    if named:
        entry, answer = named[0]
        return f"`{_trial(entry)[0] or answer.command}`"
    commands = (_trial(entry)[0] for entry in entries if entry.status != "experimental")
    return next((f"`{command}`" for command in commands if command), "")


def _trial(entry: Entry) -> tuple[str, str]:
    """The command that trains with a loss, that of a measured effect if there is one; else why there is none."""
    measured = [answer.command for answer in _answers_of(entry) if answer.command.startswith("lightning-losses ")]
    if measured:
        return measured[0], ""
    trained = [_trained(name) for name in entry.configs]
    return next((found for found in trained if found[0]), trained[0] if trained else ("", ""))


@cache
def _trained(name: str) -> tuple[str, str]:
    """The command that trains with an objective; else why no experiment does."""
    lines = (ROOT / "conf" / "objective" / f"{name}.yaml").read_text().splitlines()
    command, *notes = [line.removeprefix("# ") for line in takewhile(lambda line: line.startswith("#"), lines)]
    note = " ".join(notes)
    refused = _compared().refused.get(name, "").strip()
    if refused and "its experiment is" not in refused:
        return "", refused
    # A comparison goes without callbacks that only measure.
    words = [word for word in _compared().needs.get(name, "").split() if word != "callbacks=none"]
    words += re.findall(r"(?:Add|makes them:) (\w+=\w+)", note)
    command = command.replace("python recipes/train.py", "lightning-losses train")
    return " ".join(dict.fromkeys([*command.split(), *words])), ""


@cache
def _compared() -> Any:
    """What comparisons know of objectives: the words that they need, and why some can't be trained."""
    return OmegaConf.load(ROOT / "conf" / "compare.yaml")


def _loss_page(entry: Entry) -> str:
    lines = ["---", f"title: {entry.name}", "search:", "  boost: 2", "---", "", f"# {entry.name}", ""]
    lines += [f"{entry.summary}. In configurations: `{entry.id}`.", ""]
    lines += [f'<div class="formula" data-search-exclude>{html.escape(formulas()[entry.id])}</div>', ""]
    status = f"{STATUS[entry.status]}: {repositories(entry.evidence)}"
    needs = [f"[{need.sentence}](../../catalogue.md#{need.id})" for need in NEEDS if _answers(need.answers, entry)]
    lines += ["| | |", "|---|---|", row("checked", status)]
    command, why = _trial(entry)
    lines += [row("try it", f"`{command}`" if command else f"in a module of your own: {why}")] if command or why else []
    lines += [row("configuration", configurations(entry).replace("](../", "](../../../"))] if entry.configs else []
    lines += [row("cost", cost(entry)), row("fused head", entry.fused)]
    lines += [row("helps when", "; ".join(needs))] if needs else []
    lines += ["", "## Inputs and settings", "", "| tensor | shape | meaning |", "|---|---|---|"]
    for name, required in entry.inputs.items():
        shape, meaning = GLOSSARY[name].shape, GLOSSARY[name].meaning
        lines.append(row(f"`{name}`", shape, meaning if required else f"{meaning} (optional)"))
    lines += ["", "```python", _signature(entry), "```", ""]
    lines += [f"::: {entry.module}", "    options:", "      show_root_heading: false"]
    lines += ["      show_root_toc_entry: false", "", "## Checked against", "", *_cases(entry), ""]
    return "\n".join([*lines, "## Measured here", "", *_measured(entry), ""])


def _signature(entry: Entry) -> str:
    """How a loss is made, each setting with its range, and what its call takes, with shapes as in the code."""
    lines = [f"{entry.name}("]
    for name, what in entry.settings.items():
        default, _, bounds = what.partition(", ")
        setting = name if default == "required" else f"{name}={default}"
        lines.append(f"    {setting}," + (f"  # {bounds}" if bounds else ""))
    call = inspect.signature(getattr(losses, entry.name).forward)
    tensors = [str(tensor) for tensor in list(call.parameters.values())[1:]]
    lines += [")", "", "forward(", *(f"    {tensor}," for tensor in tensors), f") -> {call.return_annotation}"]
    return re.sub(r"jaxtyping\.|collections\.abc\.|torch\.|<class '|'>", "", "\n".join(lines))


def _answers(answers: tuple[Answer, ...], entry: Entry) -> bool:
    return any(answer.method in (entry.id, *entry.configs) for answer in answers)


def _answers_of(entry: Entry) -> list[Answer]:
    """What the needs say of a loss, measured effects first."""
    found = [answer for need in NEEDS for answer in need.answers if _answers((answer,), entry)]
    return sorted(found, key=lambda answer: answer.effect == NOT_MEASURED)


@cache
def formulas() -> dict[str, str]:
    """The formula of every loss, in LaTeX."""
    return tomllib.loads((ROOT / "docs" / "formulas.toml").read_text())


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
        row(_source(source), " ".join(f"`{case}`" for case in ids))
        for source, ids in sorted(cases.items(), key=lambda item: item[0].lower())
    ]
    return "\n".join([*lines, ""])


def _source(source: str) -> str:
    """A source with a link, its commit shortened."""
    linked = re.sub(r"([\w.-]+/[\w.-]+)@([0-9a-f]{7})[0-9a-f]*", r"[\1](https://github.com/\1) at \2", source)
    return linked.replace("::", ": ")


def _cases(entry: Entry) -> list[str]:
    own = [case for case in golden_cases() if case["method"] == _NAMES.get(entry.id, entry.id)]
    if not own:
        return [f"{entry.evidence[0].upper()}{entry.evidence[1:]}."]
    lines = ["In float64, by [golden cases](../../golden_cases.md):", "", "| case | from | compared |", "|---|---|---|"]
    for case in own:
        compared = ["values"] + ["gradients"] * any(name.startswith("grad") for name in case["expected"])
        lines.append(row(f"`{case['id']}`", _source(case["source"]), " and ".join(compared)))
    return lines


def _measured(entry: Entry) -> list[str]:
    """What the needs and the pages of results say of a loss, beside the run that the others are compared with."""
    effects = [
        f"- [{answer.effect[0].upper()}{answer.effect[1:]}](../../{answer.page})."
        for answer in _answers_of(entry)
        if answer.effect != NOT_MEASURED
    ]
    found = [
        row(f"[{name}](../../results/{name}.md)", *cells)
        for name in sorted(path.stem for path in (ROOT / "docs" / "results" / "numbers").glob("*.json"))
        for objective, *cells in _numbers(name)
        if objective in (entry.id, *entry.configs)
    ]
    if not effects and not found:
        # Others than these have no accuracy beside that of cross-entropy.
        comparable = re.compile(r"lightning-losses train experiment=(?:classify|distill) objective=(\w+)")
        chosen = next(filter(None, (comparable.fullmatch(_trained(name)[0]) for name in entry.configs)), None)
        command = f" `lightning-losses compare objectives=[ce,{chosen[1]}] seeds=5` would." if chosen else ""
        return [f"Not measured yet.{command}"]
    if not found:
        return effects
    return [
        *effects, *[""] * bool(effects),
        "Means over seeds and 95% intervals. The rival is what a page compares all others with; it has none itself. A "
        "* marks a difference from it beyond chance. What was tuned is on the page, with further numbers.", "",
        "| results | setting | this | rival |", "|---|---|---:|---:|", *found,
    ]  # fmt: skip


@cache
def _numbers(name: str) -> list[tuple[str, str, str, str]]:
    """Objective, setting with metric, number and the rival's number, of each run in a results page's tables."""
    folder = ROOT / "docs" / "results"
    kept = json.loads((folder / "numbers" / f"{name}.json").read_text())
    metrics = [shown(metric).name for metric in kept["columns"] if _judges(metric)]
    # Twenty data sets would fill a page by one number each.
    metrics = metrics[:1] if len(kept["settings"]) > 5 else metrics
    found, heading = [], ""
    head: list[str] = []
    rival: list[str] = []
    for line in (folder / f"{name}.md").read_text().splitlines():
        if line.startswith("## "):
            heading = line.removeprefix("## ")
        if not line.startswith("|"):
            head = []
        if not line.startswith("| "):
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not head:
            head, rival = cells, []
            continue
        if head[0]:
            continue
        run, rival = cells[0], rival or cells
        objective = kept["runs"][run].split()[0]
        for column, cell, first in zip(head[1:], cells[1:], rival[1:], strict=False):
            # A table of one setting has a metric in each column, one of several settings says it above.
            metric, setting = (column, "") if column in metrics else (heading, column)
            # One number is enough of what has no rival.
            if metric in (metrics[:1] if run == rival[0] else metrics) and cell:
                label = "" if run == objective else run
                beside = "–" if run == rival[0] else f"{first} ({rival[0]})"
                found.append((objective, ": ".join(filter(None, [label, setting, metric])), cell, beside))
    return found


def _judges(metric: str) -> bool:
    """Whether a column of a comparison says how good a run is in the end, and no other says nearly the same."""
    other = ("nll", "calibrated_nll", "overconfidence", "temperature", "mrr_before", *COSTS)
    return metric not in other and not metric.startswith("val_")
