"""The results as pages: every claim's verdict in one table, and a page for each experiment's numbers."""

import itertools
import math
import re
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

from lightning_losses.environment.atomic_files import write_text
from lightning_losses.experiments.comparison.comparison_report import Comparison
from lightning_losses.experiments.comparison.shown_numbers import difference_of, shown, spread
from lightning_losses.experiments.evidence.claims import more_is_better
from lightning_losses.experiments.evidence.gates import Gate
from lightning_losses.experiments.evidence.result_runs import EXAMPLES, EXPERIMENTS, PICTURES, SEEDS
from lightning_losses.experiments.evidence.seed_interval import SeedInterval, seed_interval
from lightning_losses.experiments.evidence.verdicts import RULE, Verdict, Word
from lightning_losses.experiments.page import Page, Table

# Beside the table of verdicts.
PAGES = Path("docs") / "results"
_UP = "The verdicts of all experiments, and what they mean: [results](../../RESULTS.md)."


class Finding(NamedTuple):
    """The result of an experiment's runs for one of its gates.

    Attributes:
        gate: the claim about numbers.
        found: the gate's numbers by seed: one for each of its runs.
        least: by seed, the lower bound of each delay that has not ended; NaN for any other number.
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
    """Reproduced if every gate holds on every seed; with the number of seeds on which all hold.

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
            mean = _interval(finding.gate.value, list(values.values()))
            rows.append([label, _with_unit(finding.gate.value), *cells, mean, *gate])
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
    """The verdicts of a comparison on its claims, the runs that differ, its tables and its pictures."""
    settings = [f"- {label}: {f'`{words}`' if words else 'nothing else'}" for label, words in found.settings.items()]
    claims = [
        [
            f"{one.claim.claim} ({one.claim.source})",
            f"**{one.verdict.word}**{f': {one.verdict.remark}' if one.verdict.remark else ''}",
            "<br>".join(one.told()) or "–",
            "<br>".join(f"{'holds' if guard.holds else 'fails'}: {guard.sentence}" for guard in one.guards) or "–",
        ]
        for one in found.judged()
    ]
    made_with = ", ".join(f"{part} {value}".removeprefix("hardware ") for part, value in found.made_with.items())
    return Page(
        title=found.title,
        command=f"python recipes/compare.py comparison={name}{_first_look(found)}",
        body=[
            f"For all runs `{' '.join(map(str, found.config['common']))}`; {len(found.runs)} objectives, "
            f"{len(found.seeds)} seeds. All of it is in `conf/comparison/{name}.yaml`.",
            f"Made with {made_with}." if made_with else "",
            "\n".join(settings) if len(settings) > 1 else "",
            *(f"![{picture.replace('_', ' ')}](../images/{name}_{picture}.png)" for picture in pictures),
            Table(["claim", "verdict", "found", "guards"], claims, "Claims", left=4) if claims else "",
            _tests(found),
            *_told(found),
            *found.tables(),
            found.note,
            found.caveat,
            "\n".join(f"- did not run: {sentence}" for sentence in found.broken),
            _UP,
        ],
        name=name,
    )


def _first_look(found: Comparison) -> str:
    """The override that limits the command to the trained seeds, if it would otherwise go on to the second look."""
    undecided = any(one.verdict.word == "inconclusive" for one in found.judged())
    return f" seeds={len(found.seeds)}" if undecided and len(found.seeds) in found.looks[:1] else ""


def _tests(found: Comparison) -> str:
    """The margins, the planned looks, and the level of a test."""
    margins = list(dict.fromkeys(
        _margin(one.metric, one.shows if one.is_margin else found.margins[one.metric])
        + " for a claim of “no worse”" * one.is_margin
        for claim in found.claims for one in claim.differences if one.is_margin or one.metric in found.margins
    ))  # fmt: skip
    if not margins:
        return ""
    looks = (
        f"Two looks were planned, after {found.looks[0]} and after {found.looks[1]} seeds, each at "
        f"{100 * found.level:g}%; {len(found.seeds)} seeds were trained."
        if len(found.looks) == 2
        else f"One look was planned, at {100 * found.level:g}%."
    )
    level = 100 - 100 * found.level
    levels = f"The intervals of this table are at {level:g}%, those of the others at 95%."
    early = {finding.seeds for one in found.judged() for finding in one.found} - {len(found.seeds)}
    return (
        f"Margins, stated beforehand: {', '.join(margins)}. {looks} "
        f"{'All intervals are at 95%.' if level == 95 else levels}"
        + "".join(f" A claim decided at the first look keeps its {seeds} seeds; the tables have all {len(found.seeds)}."
                  for seeds in early)
    )  # fmt: skip


def _margin(metric: str, margin: Any) -> str:
    unit = shown(metric)
    size = unit.factor * float(margin)
    return f"{size:g}{unit.points.removesuffix('s' * (size == 1))} of {unit.plain}"


def _told(found: Comparison) -> list[str]:
    """The ranks over many settings; else what differs in each."""
    if found.ranks is not None:
        return [str(found.ranks)]
    return [
        f"What differs from {found.baseline} by more than chance (Holm's p below {found.level:g}):",
        "\n".join(_differing(found)),
    ]


def _differing(found: Comparison) -> Iterator[str]:
    """A line for each setting: the runs that are higher and lower than the baseline in the most important metrics."""
    named = {"accuracy": "accuracy", "ece": "ECE as trained", "calibrated_nll": "calibrated NLL"}
    if not named.keys() & set(found.columns):
        # Of a regression, say.
        named = {metric: shown(metric).name for metric in found.columns if metric not in ("seconds", "parameters")}
    for setting in found.settings:
        parts = []
        for metric, name in named.items():
            p_values = found.p_values(setting, metric)
            if all(map(math.isnan, p_values.values())):
                parts.append(f"{name}: not tested")
                continue
            significant = {run for run, p in p_values.items() if p < found.level}
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
    before: Mapping[str, str] | None = None,
) -> Page:
    """The main results, every claim's verdict, the meaning of the verdicts, and the claims that can't be tested here.

    Args:
        experiments: the grokking experiments' settings, by name.
        reports: their reports, by name and seed.
        seeds: of the grokking experiments.
        comparisons: the results and pictures of each comparison; None for one that has not run.
        old: the grokking runs of an earlier version of the code.
        before: by name, the verdicts on the pages of grokking experiments that were not run this time.
    """
    before = before or {}
    listed, names = ",".join(map(str, seeds)), [*comparisons, *experiments]
    chosen = "" if list(seeds) == list(SEEDS) else f"--seeds {listed}"
    chosen += "" if names == list(EXPERIMENTS) else f" --experiments {','.join(names)}"
    measured = {name: report for name, report in comparisons.items() if report is not None}
    claimed = [
        [_link(name), one.claim.claim, f"**{one.verdict.word}**", found, one.verdict.remark]
        for name, (report, _) in measured.items()
        for one in report.judged()
        for found in ["<br>".join(one.told(difference_of))]
    ]
    grokking, untested = [], []
    for name, settings in experiments.items():
        found = findings([Gate(**gate) for gate in settings["gates"]], reports[name])
        grokking.append([_link(name), settings["claim"].strip(), before.get(name) or verdict(found, seeds)])
        untested += [f"{claim} ({settings['source']})" for claim in settings["untested"]]
    for report, _ in measured.values():
        untested += report.untested
    missing = [name for name, report in comparisons.items() if report is None]
    stale = f"Runs that an earlier version of the code made, from the same settings: {', '.join(old)}."
    return Page(
        title="Results",
        command=f"make results ARGS='{chosen.strip()}'" if chosen else "make results",
        body=[
            *_summary({name: report for name, (report, _) in measured.items()}, [told for *_, told in grokking]),
            *(part for name, report in measured.items() for part in _found(name, *report)),
            Table(["experiment", "claim", "verdict", "found", "reason"], claimed, "Claims", left=5) if claimed else "",
            Table(["experiment", "claim", "verdict"], grokking, "Grokking", left=3) if grokking else "",
            _grokking_rule(listed) if grokking else "",
            f"Taken from their pages, which say when they were measured: {', '.join(f'`{name}`' for name in before)}. "
            f"`python recipes/results.py --experiments {','.join(before)}`" if before else "",
            stale if old else "",
            "## To be measured" if missing else "",
            "These comparisons have no numbers made by the present rule and code:" if missing else "",
            _commands(missing),
            "## Examples",
            "These train each objective at the settings of its paper or code, with nothing tuned, and are no evidence:",
            _commands(EXAMPLES),
            "## Not testable here",
            "\n".join(f"- {claim}" for claim in dict.fromkeys(untested)),
        ],
    )  # fmt: skip


def _commands(names: Sequence[str]) -> str:
    return "\n".join(f"- `python recipes/compare.py comparison={name}`" for name in names)


def _found(name: str, found: Comparison, pictures: Sequence[str]) -> list[str]:
    """The results of a comparison in a few sentences, with its picture of effects."""
    pictured = [f"![{found.title}]({(PICTURES / f'{name}_{one}.png').as_posix()})" for one in pictures]
    if found.ranks is not None:
        ranks = f"By {shown(found.ranked).plain}: {str(found.ranks)[:1].lower()}{str(found.ranks)[1:]} The numbers"
        return [f"## {found.title}", f"{ranks} are in {_link(name)}.", *pictured, found.caveat]
    unit = shown(found.claimed)
    lines = []
    for setting, values in found.values.items():
        has = " and ".join(
            f"{shown(metric).plain} {spread(seed_interval(values[found.baseline][metric]), metric)}{shown(metric).sign}"
            for metric in dict.fromkeys(("accuracy", found.claimed))
            # Tasks of many labels have no accuracy.
            if all(map(math.isfinite, values[found.baseline][metric]))
        )
        teachers = [run["teacher_accuracy"] for run in values.values()
                    if all(map(math.isfinite, run["teacher_accuracy"]))]  # fmt: skip
        teacher = f"; the teacher has accuracy {100 * statistics.fmean(teachers[0]):.1f} %" if teachers else ""
        effects = ", ".join(f"{run} {_rounded(one, found.claimed)}" for run, one in _ordered(found, setting))
        lines.append((setting, f"{found.baseline} has {has}{teacher}", effects))
    differences = (
        f"differences from it in {unit.plain}{', in points' if unit.sign else ''}, over {len(found.seeds)} seeds, "
        "paired, with 95% intervals"
    )
    if len(lines) == 1:
        ((_, has, effects),) = lines
        told = [f"A network trained by {has}. The {differences}: {effects}. {_rest(name, found)}"]
    else:
        told = [f"For each setting, the baseline and the {differences}. {_rest(name, found)}",
                "\n".join(f"- {setting}: {has}; {effects}." for setting, has, effects in lines)]  # fmt: skip
    chosen = "effects" if len(lines) == 1 else f"intervals_{found.claimed}"
    drawn = [picture for picture, one in zip(pictured, pictures, strict=True) if one == chosen]
    return [f"## {found.title}", *told, *drawn, found.caveat]


def _rest(name: str, found: Comparison) -> str:
    return " ".join([*found.warnings(), f"Chosen parameters, guards and tables are in {_link(name)}."])


def _ordered(found: Comparison, setting: str) -> list[tuple[str, SeedInterval]]:
    """The differences from the baseline, the best first and unknown ones last."""
    effects, sign = found.effects(setting, found.claimed), -1 if more_is_better(found.claimed) else 1
    return sorted(effects.items(), key=lambda pair: (math.isnan(pair[1].mean), sign * pair[1].mean))


def _rounded(effect: SeedInterval, metric: str) -> str:
    digits = 1 if shown(metric).sign else shown(metric).digits
    if math.isnan(effect.mean):
        return "–"
    half = "" if math.isnan(effect.high) else f" ± {effect.high - effect.mean:.{digits}f}"
    return f"{effect.mean:+.{digits}f}{half}"


def _summary(measured: Mapping[str, Comparison], grokking: Sequence[str]) -> list[str]:
    """How many claims have each verdict, what the verdicts mean, and what beats the baseline of each comparison."""
    judged = [one for found in measured.values() for one in found.judged()]
    words = Counter(one.verdict.word for one in judged)
    counted = ", ".join(f"{words[word]} {word}" for word in get_args(Word))
    below = sum(one.verdict == Verdict("refuted", "below the margin") for one in judged)
    best = [(f"[{found.title}]({PAGES.as_posix()}/{name}.md)", shown(found.claimed).plain, _helped(found))
            for name, found in measured.items() if found.ranks is None]  # fmt: skip
    helped = [f"- {link}: {metric} {told}" for link, metric, told in best if told]
    others = [f"{link} ({metric})" for link, metric, told in best if not told]
    reproduced = sum(told.startswith("reproduced") for told in grokking)
    return [
        f"Claims of papers, tested on small data and small networks: {counted}, {len(judged)} in all. In {below} of "
        f"the {words['refuted']} refuted claims the gain over the rival is below the stated margin; in the other "
        f"{words['refuted'] - below} the opposite of the claim shows. Methods and rivals are tuned by the same rule "
        "where a page has a table “Tuned to”. A claim that is refuted here may hold on larger data and networks.",
        f"Claims on grokking: {reproduced} of {len(grokking)} reproduced." if grokking else "",
        "## Verdicts",
        RULE,
        "## What beats the baseline" if helped else "",
        "Of the runs that differ from the baseline by more than chance in the metric of the first claim, the best of "
        "each experiment, with its difference, and a reproduced claim about it, if there is one:" if helped else "",
        "\n".join(helped),
        f"No run beats the baseline by more than chance in: {'; '.join(others)}." if others else "",
    ] if judged else []  # fmt: skip


def _helped(found: Comparison) -> str:
    """The best run of each setting that differs from the baseline by more than chance, and a claim about it."""
    unit, parts, claims = shown(found.claimed), [], dict[str, None]()
    for setting in found.settings:
        p_values, sign = found.p_values(setting, found.claimed), 1 if more_is_better(found.claimed) else -1
        better = (one for one in _ordered(found, setting) if sign * one[1].mean > 0 and p_values[one[0]] < found.level)
        # Of those that differ: the highest mean may be chance.
        for run, effect in itertools.islice(better, 1):
            where = f"{setting}: " if setting else ""
            parts.append(f"{where}`{run}` {_rounded(effect, found.claimed)}{unit.points}")
            about = [one.claim for one in found.judged() if one.verdict.word == "reproduced"
                     and any((each.setting, each.run) == (setting, run) for each in one.claim.differences)]  # fmt: skip
            claims |= {claim.claim: None for claim in about[:1]}
    return f"against `{found.baseline}`: {'; '.join(parts)}. {' '.join(claims)}".strip() if parts else ""


def _grokking_rule(seeds: str) -> str:
    return (
        f"Grokking: seeds {seeds.replace(',', ', ')}, on one CPU thread. Settings and gates were chosen on "
        "seeds 0, 1, 2 and those from 10 on; where earlier settings had failed on some of these seeds, the page of the "
        "experiment says so. A claim counts as reproduced only if all its gates "
        "hold on every seed. Intervals are Student's, 95%, of the mean over seeds, and stop at the end of what is "
        "possible; numbers that are the same on all seeds have none. “–” is what did not happen "
        "within the run, “over” the steps that a delay had lasted when the run ended; neither passes a gate."
    )


def write(
    path: Path,
    experiments: Mapping[str, dict[str, Any]],
    reports: Mapping[str, dict[int, dict[str, Any]]],
    seeds: Sequence[int],
    comparisons: Mapping[str, tuple[Comparison, list[str]] | None],
    old: Sequence[str] = (),
) -> None:
    """Write the page of `verdicts` and a page for each experiment; an experiment that wasn't run keeps its old page."""
    folder = path.parent / PAGES
    kept = {name: _verdict_on(folder / f"{name}.md") for name in experiments if not reports[name]}
    before = {name: told for name, told in kept.items() if told}
    pages = [grokking_page(name, settings, reports[name], seeds) for name, settings in experiments.items()
             if name not in before]  # fmt: skip
    pages += [comparison_page(name, *report) for name, report in comparisons.items() if report is not None]
    write_text(path, verdicts(experiments, reports, seeds, comparisons, old, before).markdown())
    for page in pages:
        write_text(folder / f"{page.name}.md", page.markdown())


def _verdict_on(page: Path) -> str:
    """The verdict at the beginning of a grokking experiment's page; "" if there is no page."""
    match = re.search(r"(?m)^\*\*(.+)\.\*\*$", page.read_text()) if page.is_file() else None
    return match[1].lower() if match else ""


def _link(name: str) -> str:
    return f"[`{name}`]({PAGES.as_posix()}/{name}.md)"


def _setting(experiment: str, settings: dict[str, Any]) -> str:
    """The data's plain settings and the budget of steps, of each data set."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for run in settings["runs"].values():
        runs.setdefault(_data(run.get("set", {}).get("data", settings["data"])), []).append(run)
    parts = []
    for data, own in runs.items():
        steps, rates = (
            _either({run.get("set", {}).get(f"{part}.{name}", settings[part][name]) for run in own})
            for part, name in (("trainer", "max_steps"), ("optimizer", "lr"))
        )
        network, optimizer = (settings[part]["_target_"].rpartition(".")[2] for part in ("model", "optimizer"))
        labels = f" ({', '.join(run['label'] for run in own)})" if len(runs) > 1 else ""
        parts.append(f"{data}; {network}, {optimizer} at {rates}; {steps} full-batch steps{labels}")
    return f"{'; and '.join(parts)}. All of it is in `conf/experiment/{experiment}.yaml`"


def _data(settings: Mapping[str, Any]) -> str:
    """Neither where the data come from nor the form of a batch."""
    return ", ".join(
        f"{name.replace('_', ' ')} {value}"
        for name, value in settings.items()
        if not name.startswith("_") and name not in ("steps_per_epoch", "batch")
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


def _with_unit(name: str) -> str:
    """A number's name; those that are neither shares nor losses count steps."""
    return name if _is_share(name) or "loss" in name else f"{name}, steps"


def _is_share(name: str) -> bool:
    return "accuracy" in name or name == "highest collapse"
