"""The results as pages: every claim's verdict in one table, and a page for each experiment's numbers."""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lightning_losses.environment.atomic_files import write_text
from lightning_losses.experiments.comparison.comparison_report import Comparison
from lightning_losses.experiments.comparison.shown_numbers import describe
from lightning_losses.experiments.evidence.claims import LEVEL, RULE
from lightning_losses.experiments.evidence.gates import Gate
from lightning_losses.experiments.evidence.result_runs import EXPERIMENTS, SEEDS
from lightning_losses.experiments.evidence.seed_interval import seed_interval
from lightning_losses.experiments.page import Page, Table

# Beside the table of verdicts.
PAGES = Path("docs") / "results"
_UP = "The verdicts of all experiments, and what they mean: [results](../../RESULTS.md)."


class Finding(NamedTuple):
    """What the runs of an experiment say of one of its gates.

    Attributes:
        gate: the claim about numbers.
        found: the gate's numbers by seed: one for each of its runs.
        least: what a delay that has not ended is longer than, likewise; NaN for any other number.
        holds: whether the gate passes, by seed.
    """

    gate: Gate
    found: dict[int, list[float]]
    least: dict[int, list[float]]
    holds: dict[int, bool]


def findings(gates: Sequence[Gate], reports: dict[int, dict[str, Any]]) -> list[Finding]:
    """Every gate's numbers and whether it holds, by seed."""
    numbers = {
        seed: {
            name: {
                key: math.nan if value is None else value
                for key, value in found.items()
                if value is None or isinstance(value, int | float)
            }
            for name, found in report["runs"].items()
        }
        for seed, report in reports.items()
    }
    return [
        Finding(
            gate,
            {seed: gate.found(of_runs) for seed, of_runs in numbers.items()},
            {seed: [_least(gate.value, of_runs[name]) for name in gate.runs] for seed, of_runs in numbers.items()},
            {seed: gate.passes(of_runs) for seed, of_runs in numbers.items()},
        )
        for gate in gates
    ]


def verdict(found: Sequence[Finding], seeds: Sequence[int]) -> str:
    """Reproduced, if every gate holds on every seed; and on how many all do.

    Example:
        >>> gate = Gate(["a"], "delay", at_least=1)
        >>> verdict([Finding(gate, {3: [2.0], 4: [0.0]}, {}, {3: True, 4: False})], [3, 4])
        'not reproduced (all gates hold on 1 of 2 seeds)'
        >>> verdict([], [3])
        'not run'
    """
    if not found or any(seed not in finding.holds for finding in found for seed in seeds):
        return "not run"
    held = sum(all(finding.holds[seed] for finding in found) for seed in seeds)
    word = "reproduced" if held == len(seeds) else "not reproduced"
    return f"{word} (all gates hold on {held} of {len(seeds)} seeds)"


def grokking_page(
    experiment: str, settings: dict[str, Any], reports: dict[int, dict[str, Any]], seeds: Sequence[int]
) -> Page:
    """The numbers of a grokking experiment's gates, on every seed."""
    found = findings([Gate(**gate) for gate in settings["gates"]], reports)
    seconds = [report["seconds"] for report in reports.values()]
    rows = []
    for finding in found:
        for place, name in enumerate(finding.gate.runs):
            values = {seed: numbers[place] for seed, numbers in finding.found.items()}
            cells = [
                _cell(finding.gate.value, values.get(seed), finding.least.get(seed, [math.nan] * (place + 1))[place])
                for seed in seeds
            ]
            gate = [_bounds(finding.gate), f"{sum(finding.holds.values())} of {len(seeds)}"] if place == 0 else ["", ""]
            label = settings["runs"][name]["label"]
            rows.append(
                [label, finding.gate.value, *cells, _interval(finding.gate.value, list(values.values())), *gate]
            )
    columns = ["run", "number", *(f"seed {seed}" for seed in seeds), "mean ± 95%", "gate", "holds"]
    return Page(
        title=settings["title"],
        body=[
            f"**{verdict(found, seeds).capitalize()}.**",
            f"Claim: {settings['claim']} ({settings['source']})",
            f"Our setting: `experiment={experiment}`, {_setting(experiment, settings)}.",
            Table(columns, rows, left=2, right=2),
            settings.get("caveat") or "",
            f"{statistics.fmean(seconds):.0f} seconds a seed." if seconds else "",
            _UP,
        ],
        name=experiment,
    )


def comparison_page(name: str, found: Comparison, pictures: Sequence[str]) -> Page:
    """What a comparison says of its claims, which runs differ, and its tables and pictures."""
    settings = [f"- {label}: {f'`{words}`' if words else 'nothing else'}" for label, words in found.settings.items()]
    claims = [
        [f"{claim.claim} ({claim.source})", result, "<br>".join(map(describe, differences)) or "–"]
        for claim, differences, result in found.findings()
    ]
    return Page(
        title=found.title,
        body=[
            f"Our setting: `python recipes/compare.py comparison={name}`, for all runs "
            f"`{' '.join(map(str, found.config['common']))}`; {len(found.runs)} objectives, {len(found.seeds)} seeds. "
            f"All of it is in `conf/comparison/{name}.yaml`.",
            "\n".join(settings) if len(settings) > 1 else "",
            Table(["claim", "verdict", "found"], claims, left=3),
            f"What differs from {found.baseline} by more than chance (Holm's p below 5%):",
            "\n".join(_differing(found)),
            *found.tables(),
            found.note,
            found.caveat,
            "\n".join(f"- did not run: {sentence}" for sentence in found.broken),
            *(f"![{picture.replace('_', ' ')}](../images/{name}_{picture}.png)" for picture in pictures),
            _UP,
        ],
        name=name,
    )


def _differing(found: Comparison) -> Iterator[str]:
    """A line a setting: which runs are higher and lower than the baseline in what counts most."""
    for setting in found.settings:
        parts = []
        for metric, name in (("accuracy", "accuracy"), ("ece", "ECE as trained"), ("calibrated_nll", "calibrated NLL")):
            p_values = found.p_values(setting, metric)
            if all(map(math.isnan, p_values.values())):
                parts.append(f"{name}: not tested")
                continue
            significant = {run for run, p in p_values.items() if p < LEVEL}
            for word, sign in (("higher", 1), ("lower", -1)):
                runs = [
                    f"`{run}`"
                    for run in found.runs
                    if run in significant and sign * statistics.fmean(found.differences(setting, run, metric)) > 0
                ]
                parts.append(f"{name} {word}: {', '.join(runs) or 'none'}")
        yield f"- {setting + ': ' if setting else ''}{'; '.join(parts)}."


def verdicts(
    experiments: Mapping[str, dict[str, Any]],
    reports: Mapping[str, dict[int, dict[str, Any]]],
    seeds: Sequence[int],
    comparisons: Mapping[str, tuple[Comparison, list[str]] | None],
    old: Sequence[str] = (),
) -> Page:
    """Every claim's verdict, what the verdicts mean, and what can't be tested here.

    Args:
        experiments: the grokking experiments' settings, by name.
        reports: their reports, by name and seed.
        seeds: theirs.
        comparisons: what each one found, and its pictures; None where it has not run.
        old: the grokking runs that an earlier version of the code made.
    """
    listed, names = ",".join(map(str, seeds)), [*experiments, *comparisons]
    chosen = "" if list(seeds) == list(SEEDS) else f"--seeds {listed}"
    chosen += "" if names == list(EXPERIMENTS) else f" --experiments {','.join(names)}"
    rules = []
    if experiments:
        rules.append(
            f"- Grokking: seeds {listed.replace(',', ', ')}, on one CPU thread. Settings and gates were chosen on "
            "seeds 0, 1, 2 and those from 10 on; earlier settings of `grok_xor`, `grok_lazy_rich` and `grok_compare` "
            "had failed on some of these seeds. A claim counts as reproduced only if all its gates "
            "hold on every seed. Intervals are Student's, 95%, of the mean over seeds, and stop at the end of what is "
            "possible; numbers that are the same on all seeds have none. “–” is what did not happen "
            "within the run, “over” the steps that a delay had lasted when the run ended; neither passes a gate."
        )
    if comparisons:
        rules.append(
            "- Comparisons: nothing was tuned, but for the distance of the pairs in `calibration_overlap`, "
            "chosen on seed 0. " + RULE
        )
    rows, untested = [], []
    for name, settings in experiments.items():
        found = findings([Gate(**gate) for gate in settings["gates"]], reports[name])
        rows.append([_link(name), settings["claim"].strip(), verdict(found, seeds)])
        untested += [f"{claim} ({settings['source']})" for claim in settings["untested"]]
    for name, report in comparisons.items():
        if report is None:
            rows.append([f"`{name}`", "", "not run"])
            continue
        rows += [[_link(name), claim.claim, result] for claim, _, result in report[0].findings()]
        untested += report[0].untested
    stale = f"Runs that an earlier version of the code made, from the same settings: {', '.join(old)}."
    return Page(
        title="Results",
        command=f"make results ARGS='{chosen.strip()}'" if chosen else "make results",
        body=[
            "Each experiment has a claim of a paper, our setting, our numbers and a verdict that follows from them; "
            "its page has the numbers:",
            "\n".join(rules),
            Table(["experiment", "claim", "verdict"], rows, left=3),
            stale if old else "",
            "## Not testable here",
            "\n".join(f"- {claim}" for claim in dict.fromkeys(untested)),
        ],
    )


def write(
    path: Path,
    experiments: Mapping[str, dict[str, Any]],
    reports: Mapping[str, dict[int, dict[str, Any]]],
    seeds: Sequence[int],
    comparisons: Mapping[str, tuple[Comparison, list[str]] | None],
    old: Sequence[str] = (),
) -> None:
    """Write the table of `verdicts`, and beside it a page for each experiment."""
    pages = [grokking_page(name, settings, reports[name], seeds) for name, settings in experiments.items()]
    pages += [comparison_page(name, *report) for name, report in comparisons.items() if report is not None]
    write_text(path, verdicts(experiments, reports, seeds, comparisons, old).markdown())
    for page in pages:
        write_text(path.parent / PAGES / f"{page.name}.md", page.markdown())


def _link(name: str) -> str:
    return f"[`{name}`]({PAGES.as_posix()}/{name}.md)"


def _setting(experiment: str, settings: dict[str, Any]) -> str:
    """The data's plain settings and the budget of steps."""
    data = ", ".join(
        f"{name.replace('_', ' ')} {value}"
        for name, value in settings["data"].items()
        if not name.startswith("_") and name != "steps_per_epoch"
    )
    budgets = {run.get("set", {}).get("trainer.max_steps", settings["trainer"]["max_steps"])
               for run in settings["runs"].values()}  # fmt: skip
    rates = {run.get("set", {}).get("optimizer.lr", settings["optimizer"]["lr"]) for run in settings["runs"].values()}
    network, optimizer = (settings[part]["_target_"].rpartition(".")[2] for part in ("model", "optimizer"))
    return (
        f"{data}; {network}, {optimizer} at {_either(rates)}; {_either(budgets)} full-batch steps. "
        f"All of it is in `conf/experiment/{experiment}.yaml`"
    )


def _either(numbers: set[float]) -> str:
    return " or ".join(f"{number:g}" for number in sorted(numbers))


def _bounds(gate: Gate) -> str:
    words = []
    if gate.at_least is not None:
        words.append(f"at least {_cell(gate.value, gate.at_least)}")
    if gate.at_most is not None:
        words.append(f"at most {_cell(gate.value, gate.at_most)}")
    if gate.order is not None:
        words.append(f"{gate.order} from run to run")
    return ", ".join(words)


def _least(name: str, numbers: dict[str, float]) -> float:
    if name != "delay" or not math.isnan(numbers["delay"]):
        return math.nan
    return numbers["steps"] - numbers["memorised"]


def _cell(name: str, value: float | None, least: float = math.nan) -> str:
    if value is None:
        return "not run"
    if math.isnan(value):
        return "–" if math.isnan(least) else f"over {least:,.0f}"
    if _is_share(name):
        return f"{100 * value:.1f} %"
    if "loss" in name:
        return f"{value:.3g}"
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"


def _interval(name: str, values: Sequence[float]) -> str:
    if not values:
        return "–"
    interval = seed_interval(values)
    mean, low, high = interval.within(0.0, 1.0 if _is_share(name) else math.inf)
    if math.isnan(low):
        return _cell(name, mean)
    if (low, high) != interval[1:]:
        return f"{_cell(name, mean)} [{_cell(name, low)}, {_cell(name, high)}]"
    return f"{_cell(name, mean).removesuffix(' %')} ± {_cell(name, high - mean)}"


def _is_share(name: str) -> bool:
    return "accuracy" in name or name == "highest collapse"
