"""Measure every question in its turn, and write the page."""

import argparse
import json
import platform
import re
import subprocess
import time
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.measure import conditions, console
from benchmarks.on_cuda import accuracy, further, properties
from benchmarks.on_cuda import cross_entropy as ce
from benchmarks.on_cuda import distillation as kd
from benchmarks.on_cuda.measurement import Bench, Case, measure
from benchmarks.on_cuda.page import judged, write
from benchmarks.on_cuda.properties import CAPTURES, COMPILES, WAITS
from benchmarks.on_cuda.sweep import sweep
from lightning_losses.environment.atomic_files import write_json

ROOT = Path(__file__).parents[2]
PACKAGES = ("torch", "triton", "liger-kernel", "cut-cross-entropy", "quack-kernels", "nvidia-cutlass-dsl", "numpy")


def cases(on_card: bool, quick: bool) -> list[Case]:
    """All that is timed, in the order of its weight."""
    sizes = ("small",) if quick else ("large", "small")
    listed = [ce.mean_case(name, ce.SIZES[name], on_card) for name in sizes]
    for kind in ("KD", "JSD", "NKD"):
        listed += [kd.objective_case(kind, name, kd.SIZES[name]) for name in sizes]
    listed += [ce.per_token_case(name, ce.SIZES[name]) for name in sizes]
    listed += [kd.hard_labels_case("small", kd.SIZES["small"]), ce.with_lse_case("small", ce.SIZES["small"])]
    listed += [ce.dtype_case("float16 small", ce.SIZES["small"], torch.float16, on_card)]
    listed += [ce.dtype_case("float32", ce.FLOAT32, torch.float32, on_card)]
    listed += [ce.dtype_case("TF32", ce.FLOAT32, torch.float32, on_card, tf32=True)]
    listed += [ce.with_entropy_case("small", ce.SIZES["small"]), *ce.row_function_cases("small", ce.SIZES["small"])]
    listed += [ce.ignored_case("small", ce.SIZES["small"])]
    if not quick:
        listed += [ce.dtype_case("float16 large", ce.SIZES["large"], torch.float16, on_card), *ce.over_sizes()]
        listed += [ce.with_lse_case("large", ce.SIZES["large"])]
    listed += [kd.objective_case(kind, "small", kd.SIZES["small"]) for kind in list(kd.OBJECTIVES)[3:]]
    listed += [ce.stablemax_case("small", ce.SIZES["small"])]
    return listed


def checked(listed: list[Case]) -> list[Case]:
    """One case of each loss and dtype: what is compared with float64."""
    each = {(case.title, case.dtype, case.tf32): case for case in listed if not case.name.startswith("over ")}
    return list(each.values())


def machine(device: torch.device, quick: bool) -> dict[str, Any]:
    """The card, the driver and the versions of everything that takes part."""
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else "no card: a rehearsal on the CPU"
    short = re.search(r"[A-Z]+\d+\w*", card) if device.type == "cuda" else None
    versions = {"card": card, "driver": _said_by("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")}
    versions |= {"CUDA": torch.version.cuda or "none", "Python": platform.python_version(), "host": conditions()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "card": card if device.type == "cuda" else "no card",
        "slug": (short[0] if short else device.type if device.type == "cpu" else card.replace(" ", "_")).lower(),
        "date": time.strftime("%Y-%m-%d"),
        "commit": _said_by("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"),
        "quick": quick,
        "versions": versions,
    }


def _said_by(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0].strip()
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "unknown"


def perform(options: argparse.Namespace) -> dict[str, Any]:
    """All tables within the budget."""
    started = time.monotonic()
    device = torch.device(options.device)
    bench = Bench(device, 3 if options.quick else 7, started + options.budget)
    listed = [case for case in cases(bench.on_card, options.quick) if options.only in case.name]
    run: dict[str, Any] = {"machine": machine(device, options.quick), "cases": [], "accuracy": [], "properties": {}}
    console.print(run["machine"]["versions"])
    sample, examined = accuracy.SIZE, properties.SIZE
    if not bench.on_card:
        listed = [case.rehearsed() for case in listed]
        sample, examined = sample.rehearsed(), examined.rehearsed()
    checks = checked(listed) + [case for case in further.cases(sample) if options.only in case.name]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        total = sum(len(case.entries) for case in listed)
        total += sum(entry.checked for case in checks for entry in case.entries)
        total += 3 * len(properties.HEADS) * (not options.only)
        task = progress.add_task("", total=total)

        def advance(what: str) -> None:
            progress.update(task, description=what, advance=1)

        def keep() -> None:
            run["machine"]["seconds"] = round(time.monotonic() - started)
            if options.json:
                write_json(options.json, run)

        def time_all(some: list[Case], bench: Bench) -> None:
            for case in some:
                run["cases"].append(measure(case, bench, advance))
                keep()
                progress.console.print(f"{run['machine']['seconds']} s: {case.name}: {shortly(run['cases'][-1])}")

        # What decides most comes first; then whether the numbers are right; then everything else, but for captures,
        # of which one that fails may leave the card unusable.
        time_all(listed[:2], bench)
        for case in checks:
            run["accuracy"] += accuracy.check(case, bench, sample, advance)
            keep()
        time_all(listed[2:10], bench)
        if not options.only:
            run["properties"] = properties.examine((WAITS, COMPILES), bench, examined, advance)
        time_all(listed[10:], replace(bench, deadline=bench.deadline - 15))
        if not options.only:
            for head, answer in properties.examine((CAPTURES,), bench, examined, advance).items():
                run["properties"][head] |= answer
        keep()
    return run


def tune(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The kernels alone, printed from the fastest."""
    bench = Bench(torch.device(options.device), 0, time.monotonic() + options.budget)
    with Progress(TextColumn("{task.description}"), TimeElapsedColumn(), console=console, transient=True) as progress:
        task = progress.add_task("")
        rows = sweep(bench, lambda what: progress.update(task, description=what))
    for row in sorted(rows, key=lambda row: (row["kernel"], row["vocabulary"], row.get("ms", float("inf")))):
        speed = f"{row['ms']:.3f} ms, {row['terabytes_per_second']:.2f} TB/s" if "ms" in row else row["reason"]
        print(f"{row['kernel']} V={row['vocabulary']}, blocks of {row['block']}, {row['warps']} warps: {speed}")
    return rows


def shortly(record: dict[str, Any]) -> str:
    """The milliseconds of a table in one line."""
    return ", ".join(f"{e['name']} {e['ms']:.2f}" if "ms" in e else f"{e['name']} -" for e in record["entries"])


def main(description: str | None) -> None:
    """Measure, or render what was measured."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cpu: a rehearsal in miniature, where a card's entries refuse")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, and of two sizes the smaller")
    parser.add_argument("--only", default="", metavar="WORD", help="only the questions whose name has this word")
    parser.add_argument("--budget", type=float, default=220, help="seconds after which nothing new begins")
    parser.add_argument("--out", type=Path, help="the folder of the page: docs/benchmarks, a rehearsal's below build")
    parser.add_argument("--json", type=Path, help="write the raw figures here, after every table")
    parser.add_argument("--sweep", action="store_true", help="time the kernels alone over blocks and warps instead")
    parser.add_argument("--render", type=Path, metavar="JSON", help="write the page from raw figures; measure nothing")
    options = parser.parse_args()
    if not options.render and options.device != "cpu" and not torch.cuda.is_available():
        parser.error(f"--device {options.device} came, and torch finds no card; use --device cpu for a rehearsal.")
    if options.sweep:
        rows = tune(options)
        if options.json:
            write_json(options.json, rows)
        return
    run = json.loads(options.render.read_text()) if options.render else perform(options)
    place = "build" if run["machine"]["slug"] == "cpu" else "docs"
    path = write(run, options.out or ROOT / place / "benchmarks")
    print(judged(run))
    print(f"wrote {path}")
