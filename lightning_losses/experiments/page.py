"""A page of results: written as Markdown, numbers and pictures, and printed; its tables also as LaTeX and CSV."""

import csv
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from lightning_losses.environment.atomic_files import write_json, write_text
from lightning_losses.plots.style import save_figure


@dataclass(frozen=True)
class Table:
    """A table before it is written.

    Attributes:
        heads: the titles of the columns.
        rows: the cells; they may be other than texts only in a table that is written as CSV alone.
        title: one line; "" if the page's title is enough.
        left: how many of the first columns hold text, aligned to the left.
        right: how many of the last columns do.

    Example:
        >>> table = Table(["", "accuracy"], [["ce", "0.9 ± 0.1*"]])
        >>> print(table.markdown())
        | | accuracy |
        |---|---:|
        | ce | 0.9 ± 0.1* |
        >>> print(table.csv(), end="")
        ,accuracy
        ce,0.9 ± 0.1*
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[Any]]
    title: str = ""
    left: int = 1
    right: int = 0

    def markdown(self) -> str:
        """The lines of a table in Markdown."""
        rules = "".join("|---:" if self._number(place) else "|---" for place in range(len(self.heads)))
        lines = [f"| {' | '.join(self.heads)} |".replace("|  |", "| |", 1), f"{rules}|"]
        return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in self.rows)])

    def latex(self) -> str:
        """A table for booktabs, under its title as a comment."""
        lines = [f"% {self.title}"] if self.title else []
        lines += ["\\begin{tabular}{l" + "r" * (len(self.heads) - 1) + "}", "\\toprule"]
        lines += [" & ".join(map(_tex, self.heads)) + " \\\\", "\\midrule"]
        lines += [" & ".join([_tex(row[0]), *map(_tex_number, row[1:])]) + " \\\\" for row in self.rows]
        return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])

    def csv(self) -> str:
        """A line for the heads, and one a row."""
        stream = io.StringIO()
        csv.writer(stream, lineterminator="\n").writerows([self.heads, *self.rows])
        return stream.getvalue()

    def show(self, title: str) -> None:
        """Print the table, whole, however narrow the terminal says it is."""
        table = RichTable(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
        for place, head in enumerate(self.heads):
            table.add_column(head, justify="right" if self._number(place) else "left", no_wrap=True)
        for row in self.rows:
            table.add_row(*row)
        width = sum(max(map(len, column)) + 4 for column in zip(self.heads, *self.rows, strict=True))
        Console(width=max(Console().width, width), markup=False).print(table)

    def _number(self, place: int) -> bool:
        return self.left <= place < len(self.heads) - self.right


@dataclass(frozen=True)
class Page:
    """The results of a run, in their written and their printed form.

    Attributes:
        title: one line.
        body: paragraphs in Markdown and tables, in order; empty ones are left out.
        said: the lines that are printed below the tables, in place of the paragraphs.
        command: starts the run again.
        numbers: for programs; None writes no JSON.
        settings: the run's whole configuration, as plain values.
        figures: how each picture is drawn, by the name of its file.
        files: further files, by name.
        name: of the files of the page itself, without suffix.
    """

    title: str
    body: Sequence[str | Table]
    said: Sequence[str] = ()
    command: str = ""
    numbers: Mapping[str, Any] | None = None
    settings: Mapping[str, Any] | None = None
    figures: Mapping[str, Callable[[], Figure]] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    name: str = "report"

    @property
    def tables(self) -> list[Table]:
        """Those of the body."""
        return [part for part in self.body if isinstance(part, Table)]

    def markdown(self) -> str:
        """The page as Markdown."""
        parts = [f"# {self.title}", f"`{self.command}`" if self.command else ""]
        for part in self.body:
            if isinstance(part, Table):
                parts += [f"## {part.title}" if part.title else "", part.markdown()]
            else:
                parts.append(part.strip())
        return "\n\n".join(part for part in parts if part) + "\n"

    def content(self) -> dict[str, Any]:
        """The content of the JSON file."""
        settings = {} if self.settings is None else {"settings": dict(self.settings)}
        named = {"title": self.title, "command": self.command, "pictures": list(self.figures)}
        return {**named, **(self.numbers or {}), **settings}

    def write(self, folder: Path) -> list[Path]:
        """Write the page, its numbers, its pictures and its further files into a folder; the pictures' paths."""
        pictures = [save_figure(draw(), folder / name) for name, draw in self.figures.items()]
        if self.numbers is not None:
            write_json(folder / f"{self.name}.json", self.content())
        for name, text in {f"{self.name}.md": self.markdown(), **self.files}.items():
            write_text(folder / name, text)
        return pictures

    def show(self, seconds: float | None = None, folder: Path | None = None) -> None:
        """Print the tables, the lines below them, and, if given, the run's duration and the folder of the page."""
        for table in self.tables:
            table.show(f"{self.title}: {table.title}" if table.title else self.title)
        # No wrapping and no markup: the lines hold names and commands to copy.
        console = Console(soft_wrap=True, highlight=False, markup=False)
        place = [] if seconds is None else [f"{seconds:.0f} s. The report is in {folder}"]
        for line in [*self.said, *place]:
            console.print(line)


def pictures(names: Iterable[str], between: str = "\n\n") -> str:
    """Pictures beside the page in Markdown, in order.

    Example:
        >>> pictures(["losses.png"])
        '![losses](losses.png)'
    """
    return between.join(f"![{Path(name).stem.replace('_', ' ')}]({name})" for name in names)


def _tex(text: str) -> str:
    text = re.sub(r"[\\&%$#_{}]", lambda one: r"\textbackslash{}" if one[0] == "\\" else f"\\{one[0]}", text)
    return text.replace("×", "$\\times$").replace("–", "--").replace("±", "$\\pm$")


def _tex_number(text: str) -> str:
    # The ends of an interval have a comma between them too.
    number, _, p = text.partition(", p ")
    if re.search("[A-Za-z]", number):
        return _tex(text)
    number, star = number.removesuffix("*"), "^{*}" if number.endswith("*") else ""
    if not number or number == "–":
        return number.replace("–", "--")
    number = f"${number.replace('±', chr(92) + 'pm').replace('×', chr(92) + 'times')}{star}$"
    return f"{number} ($p {p}$)" if p else number
