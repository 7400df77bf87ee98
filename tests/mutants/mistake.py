"""A mistake, and where it applies."""

from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]


class Mistake(NamedTuple):
    """One text of a file of the package, what is put in its place, and the tests that must notice."""

    file: str
    right: str
    wrong: str
    tests: str

    @property
    def name(self) -> str:
        return f"{self.file}: {self.right!r} -> {self.wrong!r}"

    def put_into(self, text: str) -> str:
        """The file's text with the mistake, whose place must be there exactly once."""
        times = text.count(self.right)
        assert times == 1, (
            f"{self.name}: this stands {times} times in the file; give tests/mutants a text that is there once"
        )
        return text.replace(self.right, self.wrong)


def of(file: str, tests: str, *changes: tuple[str, str]) -> list[Mistake]:
    """Mistakes in one file that the same tests must notice: what stands there, and what is put in its place."""
    return [Mistake(file, right, wrong, tests) for right, wrong in changes]
