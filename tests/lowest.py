"""The lowest versions that pyproject.toml allows, as constraints for pip: python -m tests.lowest > FILE."""

import tomllib
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


def lowest() -> Iterator[str]:
    """A line for each distribution that is required by a lower bound, directly or by an extra."""
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    for line in sorted({*project["dependencies"], *extras}):
        requirement = Requirement(line)
        for bound in requirement.specifier:
            if bound.operator == ">=":
                yield f"{requirement.name}=={bound.version}"


if __name__ == "__main__":
    print(*lowest(), sep="\n")
