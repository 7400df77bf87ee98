"""Pictures of a run: time over the floor, memory, and both over N and V."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure


def draw(run: dict[str, Any], folder: Path, stem: str) -> dict[str, str]:
    """What each picture shows, and its file; a picture without figures is left out."""
    named = {case["name"]: case for case in run["cases"]}
    bars = [named[name] for name in ("mean large", "mean small") if name in named]
    pictures = {
        "Time over the floor": ("time", _bars(bars, _over_floor, "time over the floor", line=1.0)),
        "Extra memory": ("memory", _bars(bars, _mebibytes, "extra memory, MiB", log=True)),
        "Time and extra memory over N and V": ("sizes", _over_sizes(named)),
    }
    files = {}
    for title, (name, figure) in pictures.items():
        if figure is not None:
            files[title] = f"{stem}_{name}.png"
            figure.savefig(folder / files[title], dpi=110)
    return files


def _over_floor(case: dict[str, Any], entry: dict[str, Any]) -> float | None:
    return entry["ms"] / case["floor_ms"] if "ms" in entry and case["floor_ms"] else None


def _mebibytes(case: dict[str, Any], entry: dict[str, Any]) -> float | None:
    extra = entry.get("bytes")
    # On a logarithmic axis nothing at all is drawn as one.
    return None if extra is None else max(extra / 2**20, 1.0)


def _bars(cases: list[dict[str, Any]], value: Any, label: str, line: float | None = None, log: bool = False) -> Any:
    shown = [(case, {e["name"]: v for e in case["entries"] if (v := value(case, e)) is not None}) for case in cases]
    shown = [(case, values) for case, values in shown if values]
    if not shown:
        return None
    height = 1.2 + 0.28 * max(len(values) for _, values in shown)
    figure = Figure(figsize=(5.5 * len(shown), height), layout="constrained")
    for axis, (case, values) in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        names = list(values)
        colors = ["C0" if name.startswith("ours") and "impl=" not in name else "0.6" for name in names]
        axis.barh(names, list(values.values()), color=colors)
        axis.invert_yaxis()
        if log:
            axis.set_xscale("log")
        if line is not None:
            axis.axvline(line, color="black", linewidth=0.8)
        axis.set(xlabel=label, title=case["title"].rpartition(", ")[2])
    return figure


def _over_sizes(named: dict[str, dict[str, Any]]) -> Any:
    sweeps = {
        "tokens N": ("tokens", [case for name, case in named.items() if name.startswith("over N")]),
        "vocabulary V": ("vocabulary", [case for name, case in named.items() if name.startswith("over V")]),
    }
    if not any(cases for _, cases in sweeps.values()):
        return None
    figure = Figure(figsize=(10, 6.5), layout="constrained")
    axes = figure.subplots(2, 2)
    for column, (label, (field, cases)) in enumerate(sweeps.items()):
        for row, (key, what, unit) in enumerate((("ms", "ms", 1.0), ("bytes", "extra MiB", 2**20))):
            lines: dict[str, list[tuple[float, float]]] = {}
            for case in cases:
                for entry in case["entries"]:
                    if entry.get(key) is not None:
                        lines.setdefault(entry["name"], []).append((case["size"][field], entry[key] / unit))
            for name, points in lines.items():
                axes[row][column].plot(*zip(*sorted(points), strict=True), marker="o", label=name)
            axes[row][column].set(xlabel=label, ylabel=what, xlim=(0, None), ylim=(0, None))
            if lines:
                axes[row][column].legend(fontsize="small")
    return figure
