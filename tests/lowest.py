"""The lowest versions that pyproject.toml allows, as constraints for pip: python -m tests.lowest > FILE."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


def lowest() -> Iterator[str]:
    """A line for each distribution that is required by a lower bound, directly or by an extra."""
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    for line in sorted({*project["dependencies"], *extras}):
        if bound := re.match(r"([\w-]+)(?:\[[\w,]+\])?>=([\w.]+)", line):
            yield f"{bound[1]}=={bound[2]}"


if __name__ == "__main__":
    print(*lowest(), sep="\n")
