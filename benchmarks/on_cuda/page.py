"""The page of a run: a table for each question, with what was aimed at beside each row."""

from pathlib import Path
from typing import Any

from benchmarks.on_cuda.aims import AIMS, Aim, ratio, verdicts
from benchmarks.on_cuda.pictures import draw


def write(run: dict[str, Any], folder: Path) -> Path:
    """The page and its pictures, named after the card."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"cuda_{run['machine']['slug']}"
    pictures = draw(run, folder, stem)
    path = folder / f"{stem}.md"
    path.write_text(page(run, pictures))
    return path


def page(run: dict[str, Any], pictures: dict[str, str]) -> str:
    """All of it as Markdown."""
    machine = run["machine"]
    lines = [
        f"# Measured on {machine['card']}",
        "",
        "Forward and backward of a step, milliseconds, by `python benchmarks/cuda.py`"
        + (" --quick" if machine["quick"] else "")
        + f" on {machine['date']}, commit {machine['commit']}: medians by the card's own events, entries of a table in "
        "turns, extra memory the peak beyond inputs and gradients. The floor is what the products that no "
        "implementation can do without (6 N D V operations; with a teacher 2 N E V more) take at the rate that a "
        "square product of 8192 in the same dtype reached between the entries' turns.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in machine["versions"].items()),
        "",
        *_summary(run),
    ]
    lines += [line for name, file in pictures.items() for line in (f"![{name}]({file})", "")]
    for case in run["cases"]:
        lines += _table(case)
    return "\n".join([*lines, *_accuracy(run["accuracy"]), *_properties(run["properties"])]).rstrip() + "\n"


def _summary(run: dict[str, Any]) -> list[str]:
    judged = [verdict for case in run["cases"] for entry in case["entries"] for verdict in verdicts(case, entry)]
    met = sum(value is not None and value <= aim.bound for aim, value in judged)
    open_ = sum(value is None for _, value in judged) + len(AIMS) - len(judged)
    return [f"Of {len(AIMS)} aims {met} were met, {len(AIMS) - met - open_} were not, {open_} were not measured.", ""]


def _table(case: dict[str, Any]) -> list[str]:
    first = case["entries"][0]["name"]
    floor = "" if case["floor_ms"] is None else f" (floor {case['floor_ms']:.2f} ms)"
    lines = [f"## {case['title']}{floor}", ""]
    lines += [f"| | ms | of {first} | of floor | extra MiB | of its | aim |", "|---|---|---|---|---|---|---|"]
    for entry in case["entries"]:
        if "ms" not in entry:
            lines.append(f"| {entry['name']} | {entry.get('reason', 'not run')} | | | | | {_aims(case, entry)} |")
            continue
        spread = f"{entry['ms']:.2f} [{entry['low']:.2f}..{entry['high']:.2f}]"
        memory = "-" if entry.get("bytes") is None else f"{entry['bytes'] / 2**20:,.0f}"
        of = [_two(ratio(case, entry, "ms", first)), _two(ratio(case, entry, "ms", "floor"))]
        share = ratio(case, entry, "bytes", first)
        percent = "-" if share is None else f"{100 * share:.1f} %"
        cells = [entry["name"], spread, *of, memory, percent, _aims(case, entry)]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _aims(case: dict[str, Any], entry: dict[str, Any]) -> str:
    return "; ".join(_said(aim, value) for aim, value in verdicts(case, entry))


def _said(aim: Aim, value: float | None) -> str:
    what = "memory " if aim.quantity == "bytes" else ""
    verdict = "not measured" if value is None else f"{value:.3g}, {'met' if value <= aim.bound else '**not met**'}"
    return f"{what}at most {aim.bound:g} of {aim.of}: {verdict}"


def _two(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _accuracy(rows: list[dict[str, Any]]) -> list[str]:
    if not rows:
        return []
    lines = [
        "## Against float64",
        "",
        "Relative errors of the loss and of the gradients' norms, on the same inputs.",
        "",
    ]
    lines += ["| loss | entry | dtype | of the loss | of the hidden states' gradient | of the weight's | |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for row in rows:
        if "reason" in row:
            lines.append(f"| {row['case']} | {row['name']} | {row['dtype']} | {row['reason']} | | | |")
            continue
        errors = " | ".join(f"{row[key]:.1e}" for key in ("loss", "hidden", "weight"))
        within = "within" if row["within"] else "**beyond**"
        lines.append(f"| {row['case']} | {row['name']} | {row['dtype']} | {errors} | {within} |")
    return [*lines, ""]


def _properties(answers: dict[str, dict[str, str]]) -> list[str]:
    if not answers:
        return []
    questions = list(dict.fromkeys(question for row in answers.values() for question in row))
    lines = ["## In a training step", "", f"| head | {' | '.join(questions)} |", "|---" * (1 + len(questions)) + "|"]
    for name, row in answers.items():
        lines.append(f"| {name} | {' | '.join(row.get(question, 'not run') for question in questions)} |")
    return [*lines, ""]


def judged(run: dict[str, Any]) -> str:
    """Every aim that was measured, a line each."""
    lines = [
        f"{case['name']}, {entry['name']}: {_said(aim, value)}"
        for case in run["cases"]
        for entry in case["entries"]
        for aim, value in verdicts(case, entry)
    ]
    beyond = [
        f"{row['case']}, {row['name']}, {row['dtype']}: beyond" for row in run["accuracy"] if not row.get("within", 1)
    ]
    return "\n".join([*lines, *beyond])
