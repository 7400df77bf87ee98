"""Run a fixed list of experiments on seeds that they were not tuned on; write what came of their claims in RESULTS.md.

    make results                                                    # what RESULTS.md was made by
    python recipes/results.py --experiments grok_xor --seeds 7,8    # others, on other seeds
    python recipes/results.py --stale                               # runs of earlier versions of the code too

A run that has finished is not run again unless its settings or the code that they lead to have changed; one that was
interrupted goes on. A claim that does not hold is a result: the exit code is 1 only when a run breaks.
"""

import argparse
import hashlib
import json
import math
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from rich.console import Console

from lightning_losses.experiments.comparison.comparison_report import Comparison, describe
from lightning_losses.experiments.evidence.claims import LEVEL, RULE
from lightning_losses.experiments.evidence.gates import Gate
from lightning_losses.experiments.evidence.seed_interval import seed_interval
from lightning_losses.experiments.training.sources import essential, source_digest, targets

# Trained by recipes/train.py on seeds that their settings and gates were not chosen on.
GROKKING = ("grok_perpgrad", "grok_stablemax", "grok_precision", "grok_xor", "grok_lazy_rich", "grok_compare")
# Trained by recipes/compare.py, which has its seeds, its claims and its kept results.
COMPARISONS = ("distillation_digits", "distillation_mnist5k", "calibration_compare", "calibration_overlap")
EXPERIMENTS = (*GROKKING, *COMPARISONS)
# Settings were chosen on seeds 0, 1, 2 and those from 10 on.
SEEDS = (3, 4, 5)
RECIPES = Path(__file__).parent
# What of a configuration decides what a grokking experiment trains.
_DECISIVE = ("seed", "threads", "data", "model", "network_wrapper", "modules", "callbacks", "trainer", "runs")
_PICTURES = Path("docs") / "images"


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


def settings_of(experiment: str, seed: int) -> dict[str, Any]:
    """The whole configuration of a run."""
    with initialize_config_module("lightning_losses.conf", version_base="1.3"):
        config = compose("train", _overrides(experiment, seed))
    found = OmegaConf.to_container(config, resolve=True)
    assert isinstance(found, dict)
    return {str(name): value for name, value in found.items()}


def decisive(settings: dict[str, Any]) -> dict[str, Any]:
    """What of them decides what is trained, and no default that is written out."""
    found = essential({name: settings.get(name) for name in _DECISIVE})
    assert isinstance(found, dict)
    return found


def folder_of(folder: Path, experiment: str, settings: dict[str, Any]) -> Path:
    """Where the run of these settings is: other settings or other code, another folder."""
    names = [*targets(decisive(settings)), "lightning_losses.experiments.kinds.grok"]
    text = json.dumps([decisive(settings), source_digest(names)], sort_keys=True)
    return folder / experiment / f"seed-{settings['seed']}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def older_run(folder: Path, settings: dict[str, Any]) -> Path | None:
    """Beside a run's folder the newest one with a report of the same settings, by another version of the code."""
    places = sorted(folder.parent.glob(f"seed-{settings['seed']}-*"), key=lambda place: place.stat().st_mtime)
    for place in reversed(places):
        if report_of(place).is_file():
            before = json.loads(report_of(place).read_text())["settings"]
            if decisive(before) == decisive(settings):
                return place
    return None


def run(experiment: str, seed: int, folder: Path) -> bool:
    """Train a grokking experiment in a process of its own; whether it wrote its report."""
    begun = (folder / ".hydra" / "overrides.yaml").is_file()
    arguments = [f"resume={folder}"] if begun else [*_overrides(experiment, seed), f"hydra.run.dir={folder}"]
    return _start("train", arguments, folder) and report_of(folder).is_file()


def run_comparison(name: str, folder: Path, *, stale: bool = False) -> bool:
    """Train what a comparison has no result of, in a process of its own; whether it wrote its report."""
    arguments = [f"comparison={name}", f"hydra.run.dir={folder}", *(["stale=true"] if stale else [])]
    return _start("compare", arguments, folder)


def _start(recipe: str, arguments: list[str], folder: Path) -> bool:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "output.txt").open("a") as output:
        command = [sys.executable, str(RECIPES / f"{recipe}.py"), *arguments]
        return subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False).returncode == 0


def report_of(folder: Path) -> Path:
    """Where a run writes its numbers."""
    return folder / "report" / "report.json"


def findings(gates: Sequence[Gate], reports: dict[int, dict[str, Any]]) -> list[Finding]:
    """Every gate's numbers and whether it holds, by seed."""
    numbers = {seed: _numbers(report) for seed, report in reports.items()}
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


def section(experiment: str, settings: dict[str, Any], reports: dict[int, dict[str, Any]], seeds: Sequence[int]) -> str:
    """An experiment's part of RESULTS.md."""
    found = findings([Gate(**gate) for gate in settings["gates"]], reports)
    seconds = [report["seconds"] for report in reports.values()]
    lines = [f"## {settings['title']}", "", f"**{verdict(found, seeds).capitalize()}.**", ""]
    lines += [f"Claim: {settings['claim']} ({settings['source']})", ""]
    lines += [f"Our setting: `experiment={experiment}`, {_setting(experiment, settings)}.", ""]
    columns = ["run", "number", *(f"seed {seed}" for seed in seeds), "mean ± 95%", "gate", "holds"]
    lines += ["| " + " | ".join(columns) + " |", "|---|---" + "|---:" * (len(seeds) + 1) + "|---|---|"]
    for finding in found:
        for place, name in enumerate(finding.gate.runs):
            values = {seed: numbers[place] for seed, numbers in finding.found.items()}
            cells = [
                _cell(finding.gate.value, values.get(seed), finding.least.get(seed, [math.nan] * (place + 1))[place])
                for seed in seeds
            ]
            gate = [_bounds(finding.gate), f"{sum(finding.holds.values())} of {len(seeds)}"] if place == 0 else ["", ""]
            label = settings["runs"][name]["label"]
            row = [label, finding.gate.value, *cells, _interval(finding.gate.value, list(values.values())), *gate]
            lines.append("| " + " | ".join(row) + " |")
    lines.append("")
    if settings.get("caveat"):
        lines += [settings["caveat"].strip(), ""]
    if seconds:
        lines += [f"{statistics.fmean(seconds):.0f} seconds a seed.", ""]
    return "\n".join(lines)


def comparison_section(name: str, found: Comparison, pictures: Sequence[str]) -> str:
    """A comparison's part of RESULTS.md."""
    config = found.config
    lines = [f"## {found.title}", "", f"Our setting: `python recipes/compare.py comparison={name}`, for all runs"]
    lines[-1] += f" `{' '.join(map(str, config['common']))}`; {len(found.runs)} objectives, {len(found.seeds)} seeds."
    lines[-1] += f" All of it is in `conf/comparison/{name}.yaml`."
    lines.append("")
    if len(found.settings) > 1:
        lines += [f"- {label}: {f'`{words}`' if words else 'nothing else'}" for label, words in found.settings.items()]
        lines.append("")
    lines += ["| claim | verdict | found |", "|---|---|---|"]
    for claim, differences, result in found.findings():
        shown = "<br>".join(describe(difference) for difference in differences) or "–"
        lines.append(f"| {claim.claim} ({claim.source}) | {result} | {shown} |")
    lines.append("")
    lines += [
        f"What differs from {found.baseline} by more than chance (Holm's p below 5%):",
        "",
        *_differing(found),
        "",
    ]
    for table in found.tables():
        lines += [f"### {found.title}: {table.title}", ""] if table.title else []
        lines += [table.markdown(), ""]
    lines += [found.note, ""]
    lines += [found.caveat, ""] if found.caveat else []
    lines += [f"- did not run: {sentence}" for sentence in found.broken] + ([""] if found.broken else [])
    for picture in pictures:
        lines += [f"![{found.title}: {picture.replace('_', ' ')}](docs/images/{name}_{picture}.png)", ""]
    return "\n".join(lines)


def _differing(found: Comparison) -> Iterator[str]:
    """A line a setting: which runs are higher and lower than the baseline in what counts most."""
    for setting in found.settings:
        parts = []
        for metric, name in (("accuracy", "accuracy"), ("ece", "ECE as trained"), ("calibrated_nll", "calibrated NLL")):
            significant = {run for run, p in found.p_values(setting, metric).items() if p < LEVEL}
            for word, sign in (("higher", 1), ("lower", -1)):
                runs = [
                    f"`{run}`"
                    for run in found.runs
                    if run in significant and sign * statistics.fmean(found.differences(setting, run, metric)) > 0
                ]
                parts.append(f"{name} {word}: {', '.join(runs) or 'none'}")
        yield f"- {setting + ': ' if setting else ''}{'; '.join(parts)}."


def write(
    path: Path,
    experiments: dict[str, dict[str, Any]],
    reports: dict[str, dict[int, dict[str, Any]]],
    seeds: list[int],
    comparisons: dict[str, tuple[Comparison, list[str]] | None] | None = None,
    old: Sequence[str] = (),
) -> None:
    """RESULTS.md: every claim's verdict, then each experiment's numbers, then what can't be tested here.

    Args:
        path: where it goes.
        experiments: the grokking experiments' settings, by name.
        reports: their reports, by name and seed.
        seeds: theirs.
        comparisons: what each one found, and its pictures; None where it has not run.
        old: the grokking runs that an earlier version of the code made.
    """
    comparisons = comparisons or {}
    listed = ",".join(map(str, seeds))
    names = [*experiments, *comparisons]
    chosen = "" if seeds == list(SEEDS) else f"--seeds {listed}"
    chosen += "" if names == list(EXPERIMENTS) else f" --experiments {','.join(names)}"
    lines = ["# Results", "", f"`make results ARGS='{chosen.strip()}'`" if chosen else "`make results`", ""]
    lines += [
        "Each experiment has a claim of a paper, our setting, our numbers and a verdict that follows from them:",
        "",
    ]
    if experiments:
        lines += [
            f"- Grokking: seeds {listed.replace(',', ', ')}, on one CPU thread. Settings and gates were chosen on "
            "seeds 0, 1, 2 and those from 10 on; earlier settings of `grok_xor`, `grok_lazy_rich` and `grok_compare` "
            "had failed on some of these seeds. A claim counts as reproduced only if all its gates "
            "hold on every seed. Intervals are Student's, 95%, of the mean over seeds. “–” is what did not happen "
            "within the run, “over” the steps that a delay had lasted when the run ended; neither passes a gate."
        ]
    if comparisons:
        lines += [
            "- Comparisons: nothing was tuned, but for the distance of the pairs in `calibration_overlap`, "
            "chosen on seed 0. " + RULE
        ]
    lines += ["", "| experiment | claim | verdict |", "|---|---|---|"]
    for name, settings in experiments.items():
        found = findings([Gate(**gate) for gate in settings["gates"]], reports[name])
        lines.append(f"| `{name}` | {settings['claim'].strip()} | {verdict(found, seeds)} |")
    for name, report in comparisons.items():
        if report is None:
            lines.append(f"| `{name}` | | not run |")
            continue
        lines += [f"| `{name}` | {claim.claim} | {result} |" for claim, _, result in report[0].findings()]
    lines.append("")
    if old:
        lines += [f"Runs that an earlier version of the code made, from the same settings: {', '.join(old)}.", ""]
    lines += [section(name, settings, reports[name], seeds) for name, settings in experiments.items()]
    lines += [comparison_section(name, *report) for name, report in comparisons.items() if report is not None]
    untested = [
        f"{claim} ({settings['source']})" for settings in experiments.values() for claim in settings["untested"]
    ]
    untested += [claim for report in comparisons.values() if report is not None for claim in report[0].untested]
    lines += ["## Not testable here", "", *(f"- {claim}" for claim in dict.fromkeys(untested))]
    path.write_text("\n".join(lines) + "\n")


def main() -> int:
    """Start from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", default=",".join(EXPERIMENTS), help="names, with commas between")
    parser.add_argument("--seeds", default=",".join(map(str, SEEDS)), help="of the grokking experiments")
    parser.add_argument("--folder", type=Path, default=Path("outputs/results"), help="where the runs go")
    parser.add_argument("--output", type=Path, default=Path("RESULTS.md"), help="where the results go")
    parser.add_argument("--stale", action="store_true", help="take runs of other versions of the code too, and say so")
    parser.add_argument("--no-run", action="store_true", help="run nothing: write what the reports that are there say")
    arguments = parser.parse_args()
    names = arguments.experiments.split(",")
    if unknown := [name for name in names if name not in EXPERIMENTS]:
        parser.error(f"there is no experiment {unknown[0]}; choose of {', '.join(EXPERIMENTS)}")
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    runner = _Runner(arguments, len([name for name in names if name in GROKKING]) * len(seeds))
    experiments, reports = {}, {}
    for name in (name for name in names if name in GROKKING):
        settings = {seed: settings_of(name, seed) for seed in seeds}
        experiments[name] = settings[seeds[0]]
        found = {seed: runner.grokking(name, settings[seed]) for seed in seeds}
        reports[name] = {seed: report for seed, report in found.items() if report is not None}
    comparisons = {name: runner.comparison(name) for name in names if name in COMPARISONS}
    write(arguments.output, experiments, reports, seeds, comparisons, runner.old)
    runner.console.print(f"The results are in {arguments.output}")
    if runner.broken:
        runner.console.print(f"{len(runner.broken)} runs broke: {'; '.join(runner.broken)}")
    return 1 if runner.broken else 0


class _Runner:
    """Runs what has not run yet, and tells of it."""

    def __init__(self, arguments: argparse.Namespace, total: int) -> None:
        self.arguments = arguments
        self.total, self.done = total, 0
        self.console = Console(highlight=False, soft_wrap=True)
        self.broken: list[str] = []
        self.old: list[str] = []

    def grokking(self, name: str, settings: dict[str, Any]) -> dict[str, Any] | None:
        """The report of a seed of a grokking experiment, None where it broke or was not to be run."""
        self.done += 1
        seed, folder = settings["seed"], folder_of(self.arguments.folder, name, settings)
        self.console.print(f"{self.done:>3} of {self.total}: {name}, seed {seed}", end=" … ")
        started, before = time.perf_counter(), older_run(folder, settings) if self.arguments.stale else None
        if report_of(folder).is_file():
            self.console.print("has run before")
        elif before is not None:
            self.console.print("has run before, by another version of the code")
            self.old.append(f"`{name}` seed {seed}")
            folder = before
        elif self.arguments.no_run:
            self.console.print("has not run")
            return None
        elif run(name, seed, folder):
            self.console.print(f"{time.perf_counter() - started:.0f} s")
        else:
            self._tell(f"{name}, seed {seed}", folder)
            return None
        report: dict[str, Any] = json.loads(report_of(folder).read_text())
        return report

    def comparison(self, name: str) -> tuple[Comparison, list[str]] | None:
        """What a comparison found, and the names of its pictures beside RESULTS.md."""
        folder = self.arguments.folder / name
        self.console.print(f"{name}", end=" … ")
        started = time.perf_counter()
        if not self.arguments.no_run and not run_comparison(name, folder, stale=self.arguments.stale):
            self._tell(name, folder)
        if not (folder / "report" / "comparison.json").is_file():
            self.console.print("has not run")
            return None
        self.console.print(f"{time.perf_counter() - started:.0f} s")
        pictures = self.arguments.output.parent / _PICTURES
        pictures.mkdir(parents=True, exist_ok=True)
        drawn = sorted((folder / "report").glob("*.png"))
        for picture in drawn:
            shutil.copy(picture, pictures / f"{name}_{picture.name}")
        return Comparison.read(folder / "report"), [picture.stem for picture in drawn]

    def _tell(self, what: str, folder: Path) -> None:
        self.console.print(f"broke; its output is {shlex.quote(str(folder / 'output.txt'))}")
        self.broken.append(what)


def _overrides(experiment: str, seed: int) -> list[str]:
    return [f"experiment={experiment}", f"seed={seed}", "threads=1"]


def _numbers(report: dict[str, Any]) -> dict[str, dict[str, float]]:
    return {
        name: {key: math.nan if value is None else value for key, value in found.items() if _is_number(value)}
        for name, found in report["runs"].items()
    }


def _is_number(value: Any) -> bool:
    return value is None or isinstance(value, int | float)


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
    mean, half = seed_interval(values)
    if math.isnan(half):
        return _cell(name, mean)
    if _is_share(name):
        return f"{100 * mean:.1f} ± {100 * half:.1f} %"
    return f"{_cell(name, mean)} ± {_cell(name, half)}"


def _is_share(name: str) -> bool:
    return "accuracy" in name or name == "highest collapse"


if __name__ == "__main__":
    sys.exit(main())
