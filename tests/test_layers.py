"""Every module stands in a room, imports run downward, and losses load nothing heavy."""

import ast
import subprocess
import sys
from collections import Counter
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lightning_losses"
# From the ground up: a room imports of those before it. The package's own names are those of the rooms below it.
ROOMS = str.split(
    "numerics environment parallel transport similarities metrics samplers optim networks attacks decoding data losses "
    "balancing objective kernels calibrators teachers diagnostics out_of_distribution transduction test_time plots "
    "mixins modules checkpoints callbacks"
)
ABOVE = ["experiments", "catalogue", "__main__"]
ORDER = {room: height for height, room in enumerate([*ROOMS, "", *ABOVE])}
HEAVY = ("lightning", "hydra", "wandb", "timm", "torchmetrics", "matplotlib", "torchvision")
MOST_IN_A_FAMILY = 25


def name_of(file: Path) -> str:
    """A module's name below the package's; that of a package is its folder's."""
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(module: str) -> str:
    return module.partition(".")[0]


def imported(file: Path) -> set[str]:
    """What a file imports, also within functions and for type checkers alone."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file.name} imports by a relative name"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@cache
def arrows() -> dict[str, set[str]]:
    """The modules of the package that each module imports."""
    files = {name_of(file): file for file in sorted(PACKAGE.rglob("*.py"))}

    def home(name: str) -> str:
        own = name.removeprefix("lightning_losses").removeprefix(".")
        while own not in files:
            own = own.rpartition(".")[0]
        return own

    return {
        module: {home(name) for name in imported(file) if name.split(".")[0] == "lightning_losses"} - {module}
        for module, file in files.items()
    }


def upward(graph: dict[str, set[str]]) -> list[str]:
    """The imports that don't run downward."""
    return [
        f"{module} imports {other}"
        for module, others in graph.items()
        for other in sorted(others)
        if ORDER[room(other)] > ORDER[room(module)]
    ]


def test_every_module_stands_in_a_room():
    assert {room(module) for module in arrows()} == set(ORDER)
    assert sorted(path.name for path in PACKAGE.iterdir() if path.is_file()) == [
        "__init__.py",
        "__main__.py",
        "py.typed",
    ]


def test_imports_run_downward():
    assert upward(arrows()) == []
    assert upward({"losses.base": {"numerics.rows", "mixins.objective"}}) == ["losses.base imports mixins.objective"]


def test_no_modules_import_each_other():
    try:
        TopologicalSorter(arrows()).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_no_family_of_losses_is_a_crowd():
    families = Counter(file.parent for file in (PACKAGE / "losses").rglob("*.py") if file.name != "__init__.py")
    assert len(families) > 4
    assert {str(family): count for family, count in families.items() if count > MOST_IN_A_FAMILY} == {}


@pytest.mark.parametrize("part", ["numerics", "transport", "losses", "objective", "kernels"])
def test_mathematics_knows_no_trainer_and_no_configuration(part):
    for file in (PACKAGE / part).rglob("*.py"):
        assert not {name.split(".")[0] for name in imported(file)} & set(HEAVY), file.name


def test_process_groups_are_named_in_two_files_alone():
    naming = {
        name_of(file)
        for file in PACKAGE.rglob("*.py")
        if any(
            name.startswith("torch.distributed") and not name.startswith("torch.distributed.checkpoint.metadata")
            for name in imported(file)
        )
    }
    # The records of a checkpoint on disk are no processes.
    # One speaks of tensors that are sharded, the other of processes.
    assert naming <= {"parallel.processes", "parallel.sharding"}


def test_importing_every_loss_loads_nothing_heavy():
    code = f"import sys, lightning_losses.losses; print([n for n in {HEAVY!r} if n in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
