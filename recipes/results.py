"""Run the experiments on seeds that they were not tuned on, and write what came of their claims into RESULTS.md.

    make results                                                    # what RESULTS.md was made by
    python recipes/results.py --experiments grok_xor --seeds 7,8    # others, on other seeds

A run that has finished is not run again unless its settings have changed; one that was interrupted goes on. A claim
that does not hold is a result: the exit code is 1 only when a run breaks.
"""

import argparse
import hashlib
import json
import math
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from rich.console import Console

from lightning_losses.recipe.gates import Gate

EXPERIMENTS = ("grok_perpgrad", "grok_stablemax", "grok_precision", "grok_xor", "grok_lazy_rich", "grok_compare")
# Settings were chosen on seeds 0, 1 and 2: these have seen none of that.
SEEDS = (3, 4, 5)
TRAIN = Path(__file__).with_name("train.py")
# What an experiment says of itself and changes no run.
_WORDS = ("title", "claim", "source", "caveat", "untested", "gates")
# Two-sided 95% quantiles of Student's t, for 1, 2, ... degrees of freedom.
_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


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


def folder_of(folder: Path, experiment: str, settings: dict[str, Any]) -> Path:
    """Where the run of these settings is: other settings, another folder."""
    decisive = {name: value for name, value in settings.items() if name not in _WORDS}
    digest = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
    return folder / experiment / f"seed-{settings['seed']}-{digest[:8]}"


def run(experiment: str, seed: int, folder: Path) -> bool:
    """Train an experiment in a process of its own; whether it wrote its report."""
    folder.mkdir(parents=True, exist_ok=True)
    begun = (folder / ".hydra" / "overrides.yaml").is_file()
    arguments = [f"resume={folder}"] if begun else [*_overrides(experiment, seed), f"hydra.run.dir={folder}"]
    with (folder / "output.txt").open("a") as output:
        command = [sys.executable, str(TRAIN), *arguments]
        code = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False).returncode
    return code == 0 and report_of(folder).is_file()


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


def mean_and_interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean and half the width of its 95% interval by Student's t; NaN where a value is.

    Example:
        >>> mean, half = mean_and_interval([1.0, 2.0, 3.0])
        >>> mean, round(half, 3)
        (2.0, 2.484)
    """
    if any(math.isnan(value) for value in values):
        return math.nan, math.nan
    if len(values) < 2:
        return values[0], math.nan
    quantile = _STUDENT[len(values) - 2] if len(values) - 2 < len(_STUDENT) else 1.96
    return statistics.fmean(values), quantile * statistics.stdev(values) / math.sqrt(len(values))


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


def write(
    path: Path, experiments: dict[str, dict[str, Any]], reports: dict[str, dict[int, dict[str, Any]]], seeds: list[int]
) -> None:
    """RESULTS.md: the verdicts, then each experiment's numbers, then what can't be tested here."""
    listed = ",".join(map(str, seeds))
    chosen = "" if seeds == list(SEEDS) else f"--seeds {listed}"
    chosen += "" if list(experiments) == list(EXPERIMENTS) else f" --experiments {','.join(experiments)}"
    lines = ["# Results", "", f"`make results ARGS='{chosen.strip()}'`" if chosen else "`make results`", ""]
    lines += [
        f"Seeds {listed.replace(',', ', ')}, on one CPU thread. Settings and gates were chosen on seeds 0, 1 and 2, "
        "and not touched after these runs. A claim counts as reproduced here only if all its gates hold on every seed. "
        "Intervals are Student's, 95%, of the mean over seeds. “–” is what did not happen within the run, “over” the "
        "steps that a delay had lasted when the run ended; neither passes a gate.",
        "",
        "| experiment | verdict |",
        "|---|---|",
    ]
    for name, settings in experiments.items():
        found = findings([Gate(**gate) for gate in settings["gates"]], reports[name])
        lines.append(f"| `{name}` | {verdict(found, seeds)} |")
    lines.append("")
    lines += [section(name, settings, reports[name], seeds) for name, settings in experiments.items()]
    untested = [(claim, settings["source"]) for settings in experiments.values() for claim in settings["untested"]]
    lines += ["## Not testable here", "", *(f"- {claim} ({source})" for claim, source in untested)]
    path.write_text("\n".join(lines) + "\n")


def main() -> int:
    """Start from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", default=",".join(EXPERIMENTS), help="names, with commas between")
    parser.add_argument("--seeds", default=",".join(map(str, SEEDS)), help="numbers, with commas between")
    parser.add_argument("--folder", type=Path, default=Path("outputs/results"), help="where the runs go")
    parser.add_argument("--output", type=Path, default=Path("RESULTS.md"), help="where the results go")
    arguments = parser.parse_args()
    names = arguments.experiments.split(",")
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    console = Console(highlight=False, soft_wrap=True)
    experiments: dict[str, dict[str, Any]] = {}
    reports: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in names}
    broken, done, total = [], 0, len(names) * len(seeds)
    for name in names:
        for seed in seeds:
            done += 1
            settings = settings_of(name, seed)
            experiments.setdefault(name, settings)
            folder = folder_of(arguments.folder, name, settings)
            console.print(f"{done:>3} of {total}: {name}, seed {seed}", end=" … ")
            started = time.perf_counter()
            if report_of(folder).is_file():
                console.print("has run before")
            elif run(name, seed, folder):
                console.print(f"{time.perf_counter() - started:.0f} s")
            else:
                console.print(f"broke; its output is {shlex.quote(str(folder / 'output.txt'))}")
                broken.append(f"{name}, seed {seed}")
                continue
            reports[name][seed] = json.loads(report_of(folder).read_text())
    write(arguments.output, experiments, reports, seeds)
    console.print(f"The results are in {arguments.output}")
    if broken:
        console.print(f"{len(broken)} of {total} runs broke: {'; '.join(broken)}")
    return 1 if broken else 0


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
    mean, half = mean_and_interval(values)
    if math.isnan(half):
        return _cell(name, mean)
    if _is_share(name):
        return f"{100 * mean:.1f} ± {100 * half:.1f} %"
    return f"{_cell(name, mean)} ± {_cell(name, half)}"


def _is_share(name: str) -> bool:
    return "accuracy" in name or name == "highest collapse"


if __name__ == "__main__":
    sys.exit(main())
