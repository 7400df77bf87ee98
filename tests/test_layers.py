"""Imports run downward, and losses load nothing heavy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lightning_losses"
# What a part may import of the others; a part that isn't listed may import anything.
BELOW = {
    "tensors.py": set(),
    "distributed.py": set(),
    "features.py": set(),
    "sharded_checkpoints.py": set(),
    "sharding.py": {"sharded_checkpoints", "tensors"},
    "teacher.py": {"extras", "tensors"},
    "transport": {"tensors"},
    "losses": {"tensors", "transport"},
    "objective.py": {"losses", "tensors"},
    "adapted.py": {"losses", "tensors"},
    "kernels": {"cache_folder", "distributed", "losses", "tensors"},
    "metrics": {"tensors", "plots"},
    "calibration": {"metrics", "tensors"},
    "optim": {"sharding", "tensors"},
    "samplers": {"tensors"},
    "mixins": {"distributed", "features", "kernels", "losses", "objective", "optim", "teacher", "tensors"},
}
HEAVY = ("lightning", "hydra", "wandb", "timm", "torchmetrics", "matplotlib", "torchvision")


def imported(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return names


def files(part: str) -> list[Path]:
    return [PACKAGE / part] if part.endswith(".py") else sorted((PACKAGE / part).rglob("*.py"))


@pytest.mark.parametrize("part", BELOW)
def test_imports_run_downward(part):
    own = part.removesuffix(".py")
    for file in files(part):
        parts = {name.split(".")[1] for name in imported(file) if name.startswith("lightning_losses.")}
        assert parts - {own} <= BELOW[part], f"{file.name} imports {sorted(parts - {own} - BELOW[part])}"


@pytest.mark.parametrize("part", ["tensors.py", "losses", "transport", "objective.py", "adapted.py", "kernels"])
def test_mathematics_knows_no_trainer_and_no_configuration(part):
    for file in files(part):
        assert not {name.split(".")[0] for name in imported(file)} & set(HEAVY), file.name


def test_process_groups_are_named_in_two_files_alone():
    naming = {
        str(file.relative_to(PACKAGE))
        for file in PACKAGE.rglob("*.py")
        if any(
            name.startswith("torch.distributed") and not name.startswith("torch.distributed.checkpoint.metadata")
            for name in imported(file)
        )
    }
    # The records of a checkpoint on disk are no processes.
    # sharding.py speaks of tensors that are sharded, distributed.py of processes.
    assert naming <= {"distributed.py", "sharding.py"}


def test_importing_every_loss_loads_nothing_heavy():
    code = f"import sys, lightning_losses.losses as l; l.index(); print([n for n in {HEAVY!r} if n in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
