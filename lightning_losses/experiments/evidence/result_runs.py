"""The runs behind the results: their list, their folders, and their earlier results."""

import hashlib
import json
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from rich.console import Console

from lightning_losses.environment.atomic_files import write_text
from lightning_losses.environment.source_digest import source_digest
from lightning_losses.experiments.comparison.comparison_report import Comparison
from lightning_losses.experiments.config.instantiate import essential, targets
from lightning_losses.plots.style import save_figure

# Trained by recipes/train.py on seeds that their settings and gates were not chosen on.
GROKKING = ("grok_perpgrad", "grok_stablemax", "grok_precision", "grok_xor", "grok_lazy_rich", "grok_compare")
# Trained by recipes/compare.py, which has its seeds, its claims and its kept results.
COMPARISONS = (
    "bed_a", "bed_b", "bed_c", "bed_a_unlabelled", "bed_a_calibration", "bed_a_further", "bed_a_online",
    "bed_a_teachers", "bed_a_features", "bed_gap", "noise", "long_tail", "ordinal", "multilabel", "keel_long_tail",
    "calibration_overlap", "retrieval", "extreme", "metric_learning", "contrastive",
)  # fmt: skip
EXPERIMENTS = (*COMPARISONS, *GROKKING)
# They train every objective at the settings of its paper, tuned for nobody: their numbers would rank the settings.
EXAMPLES = ("distillation_digits", "distillation_mnist5k", "calibration_compare")
# Settings were chosen on seeds 0, 1, 2 and those from 10 on.
SEEDS = (3, 4, 5)
# What of a configuration decides what a grokking experiment trains.
_DECISIVE = ("seed", "threads", "data", "model", "network_wrapper", "modules", "callbacks", "trainer", "runs")
# Beside the table of verdicts.
PICTURES = Path("docs") / "images"
# The numbers of comparisons, from which their pages and pictures are written again without training.
KEPT = Path("docs") / "results" / "numbers"
# What a page tells of a comparison's configuration.
_TOLD = ("common", "tuning", "cached_logits", "stacked")
# Pictures of a comparison that its page shows.
_SHOWN = ("effects", "intervals", "critical_difference")


def settings_of(experiment: str, seed: int) -> dict[str, Any]:
    """The whole configuration of a run."""
    with initialize_config_module("lightning_losses.conf", version_base="1.3"):
        config = compose("train", _overrides(experiment, seed))
    found = OmegaConf.to_container(config, resolve=True)
    assert isinstance(found, dict)
    return {str(name): value for name, value in found.items()}


def decisive(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that determine the training, without those that only repeat a default."""
    found = essential({name: settings.get(name) for name in _DECISIVE})
    assert isinstance(found, dict)
    return found


def folder_of(folder: Path, experiment: str, settings: dict[str, Any]) -> Path:
    """The folder of the run with these settings; other settings or other code have another folder."""
    names = [*targets(decisive(settings)), "lightning_losses.experiments.kinds.grok"]
    text = json.dumps([decisive(settings), source_digest(names)], sort_keys=True)
    return folder / experiment / f"seed-{settings['seed']}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def older_run(folder: Path, settings: dict[str, Any]) -> Path | None:
    """The newest folder beside a run's with a report of the same settings from another version of the code."""
    places = sorted(folder.parent.glob(f"seed-{settings['seed']}-*"), key=lambda place: place.stat().st_mtime)
    for place in reversed(places):
        if report_of(place).is_file():
            before = json.loads(report_of(place).read_text())["settings"]
            if decisive(before) == decisive(settings):
                return place
    return None


def run(experiment: str, seed: int, folder: Path) -> bool:
    """Train a grokking experiment in a separate process; return whether it wrote its report."""
    begun = (folder / ".hydra" / "overrides.yaml").is_file()
    arguments = [f"resume={folder}"] if begun else [*_overrides(experiment, seed), f"hydra.run.dir={folder}"]
    return _start("train", arguments, folder) and report_of(folder).is_file()


def run_comparison(name: str, folder: Path, *, stale: bool = False) -> bool:
    """Train the runs of a comparison without a result, in a separate process; return whether it wrote its report."""
    arguments = [f"comparison={name}", f"hydra.run.dir={folder}", *(["stale=true"] if stale else [])]
    return _start("compare", arguments, folder)


def _start(recipe: str, arguments: list[str], folder: Path) -> bool:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "output.txt").open("a") as output:
        command = [sys.executable, "-m", f"lightning_losses.recipes.{recipe}", *arguments]
        return subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False).returncode == 0


def report_of(folder: Path) -> Path:
    """The file in which a run writes its numbers."""
    return folder / "report" / "report.json"


@dataclass
class Runner:
    """Runs the missing experiments, and reports on them.

    Attributes:
        folder: of the runs.
        output: the table of verdicts; the pictures go beside it.
        total: the requested number of runs of grokking experiments.
        stale: whether runs of other versions of the code are used too.
        train: whether missing runs are trained.
        done: the number of finished runs of grokking experiments.
        broken: the runs that failed.
        old: the runs of other versions of the code.
    """

    folder: Path
    output: Path
    total: int
    stale: bool = False
    train: bool = True
    done: int = 0
    broken: list[str] = field(default_factory=list)
    old: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.console = Console(highlight=False, soft_wrap=True)

    def grokking(self, name: str, settings: dict[str, Any]) -> dict[str, Any] | None:
        """The report of a seed of a grokking experiment; None if it failed or is not to be run."""
        self.done += 1
        seed, folder = settings["seed"], folder_of(self.folder, name, settings)
        self.console.print(f"{self.done:>3} of {self.total}: {name}, seed {seed}", end=" … ")
        started, before = time.perf_counter(), older_run(folder, settings) if self.stale else None
        if report_of(folder).is_file():
            self.console.print("has run before")
        elif before is not None:
            self.console.print("has run before, by another version of the code")
            self.old.append(f"`{name}` seed {seed}")
            folder = before
        elif not self.train:
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
        """The results of a comparison, new or kept, and the names of its pictures."""
        folder, kept = self.folder / name, self.output.parent / KEPT / f"{name}.json"
        self.console.print(f"{name}", end=" … ")
        started = time.perf_counter()
        if self.train and not run_comparison(name, folder, stale=self.stale):
            self._tell(name, folder)
        report = folder / "report" / "comparison.json"
        if report.is_file():
            write_text(kept, _compact(json.loads(report.read_text())))
        if not kept.is_file():
            self.console.print("has not run")
            return None
        self.console.print(f"{time.perf_counter() - started:.0f} s")
        found = Comparison.read(kept)
        drawn = {file: draw for file, draw in found.page().figures.items() if file.startswith(_SHOWN)}
        for file, draw in drawn.items():
            save_figure(draw(), self.output.parent / PICTURES / f"{name}_{file}")
        return found, [Path(file).stem for file in drawn]

    def _tell(self, what: str, folder: Path) -> None:
        self.console.print(f"broke; its output is {shlex.quote(str(folder / 'output.txt'))}")
        self.broken.append(what)


def _compact(content: dict[str, Any]) -> str:
    """A comparison's numbers to seven digits, a line for each run, without values computed from them."""
    kept = {name: value for name, value in content.items() if name not in ("summary", "pictures", "seconds")}
    # Neither the folders of the run nor what an objective needs.
    kept.update(command="", config={name: content["config"].get(name) for name in _TOLD})
    values = kept.pop("values")
    lines = [f"{json.dumps(name)}: {_line(value)}" for name, value in kept.items()]
    settings = [
        f"{json.dumps(setting)}: {{\n  "
        + ",\n  ".join(f"{json.dumps(run)}: {_line(_rounded(metrics))}" for run, metrics in runs.items())
        + "\n }"
        for setting, runs in values.items()
    ]
    return "{\n " + ",\n ".join([*lines, '"values": {' + ", ".join(settings) + "}"]) + "\n}\n"


def _line(value: Any) -> str:
    return json.dumps(value, allow_nan=False, ensure_ascii=False)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return float(f"{value:.7g}") if isinstance(value, float) else value


def _overrides(experiment: str, seed: int) -> list[str]:
    return [f"experiment={experiment}", f"seed={seed}", "threads=1"]
