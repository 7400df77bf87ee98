"""What the package offers by name: explicit, complete, and read alike by programs and type checkers."""

import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest
from mypy import api

import lightning_losses
import lightning_losses.losses as losses
from lightning_losses.environment.lazy_exports import exports
from lightning_losses.losses.base import Loss


def classes_in_files():
    for info in pkgutil.walk_packages(losses.__path__, f"{losses.__name__}."):
        # What stands beside the families is what losses are made of.
        if info.name.count(".") > 2 and not info.ispkg:
            for name, value in vars(importlib.import_module(info.name)).items():
                own = isinstance(value, type) and value.__module__ == info.name and not name.startswith("_")
                # A family's kind, which lacks its mathematics, may stand in the family's folder.
                if own and issubclass(value, Loss) and not inspect.isabstract(value):
                    yield name, value


def test_every_loss_is_exported_by_its_class_name():
    classes = dict(classes_in_files())
    assert {name: getattr(losses, name) for name in classes} == classes
    assert set(losses.loss_classes()) == set(classes.values())


def test_the_package_offers_every_loss_and_what_it_says_it_offers():
    offered = exports(lightning_losses.__file__)
    assert dict(classes_in_files()).keys() | {"Loss"} == {n for n, home in offered.items() if home.endswith(".losses")}
    assert all(getattr(lightning_losses, name).__name__ == name for name in offered)
    assert offered.keys() <= set(dir(lightning_losses))
    with pytest.raises(AttributeError, match="has no attribute 'NDK'"):
        lightning_losses.NDK  # noqa: B018


# What other packages' stubs say is not in question, and takes a checker a minute to read.
STUBS = {
    "torch/__init__.pyi": "class Tensor: ...\ndef __getattr__(name: str) -> object: ...\n",
    "torch/nn/__init__.pyi": "class Module: ...\ndef __getattr__(name: str) -> object: ...\n",
}


MINE = """
from lightning_losses import NKD, DistillationMixin, Objective, linear_cross_entropy
from lightning_losses.losses import NKD as Again

NKD(gamma=3, temperature=2.0, reduction="sum", ignore_index=0)
Again(gama=3)
NKD(reduction="average")
from lightning_losses import NDK
"""


def complaints(code, checkout, folder):
    """What mypy --strict says of a user's code, by line."""
    for name, text in STUBS.items():
        (folder / "stubs" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "stubs" / name).write_text(text)
    path = f"{folder / 'stubs'}:{checkout}"
    (folder / "mypy.ini").write_text(
        f"[mypy]\nmypy_path = {path}\nfollow_imports = silent\n"
        "[mypy-torch.*,lightning.*,torchmetrics.*,numpy.*]\nfollow_imports = skip\n"
        "[mypy-torch,torch.nn]\nfollow_imports = silent\n"
    )
    (folder / "mine.py").write_text(code)
    options = ["--strict", "--config-file", str(folder / "mypy.ini"), "--cache-dir", str(folder / "cache")]
    said, _, _ = api.run([*options, str(folder / "mine.py")])
    return dict(re.findall(r"mine\.py:(\d+): error: (.*)", said))


@pytest.mark.slow
def test_a_type_checker_sees_names_and_arguments(tmp_path):
    lines = complaints(MINE, Path(lightning_losses.__file__).parents[1], tmp_path)
    assert lines.keys() == {"6", "7", "8"}, lines
    assert 'Unexpected keyword argument "gama" for "NKD"' in lines["6"]
    assert '"reduction" to "NKD" has incompatible type' in lines["7"]
    assert 'has no attribute "NDK"' in lines["8"]


def test_an_import_loads_what_is_asked_for_alone():
    code = """
import sys, torch, lightning_losses
assert "torch" in sys.modules and "lightning_losses.losses" not in sys.modules
from lightning_losses.losses import NKD
print(sorted(name for name in sys.modules if name.startswith("lightning_losses.losses.distillation.")))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "nkd" in result.stdout and "dkd" not in result.stdout
    code = "import sys, lightning_losses; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
