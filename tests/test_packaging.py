"""The wheel holds what the source holds, and works outside the repository."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    # From a copy: building leaves folders behind.
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "setup.py", "LICENSE", "README.md", "lightning_losses", "conf", "recipes"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-build-isolation",
            "--no-deps",
            "--no-index",
            "--wheel-dir",
            str(folder / "dist"),
            str(source),
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    (wheel,) = (folder / "dist").glob("*.whl")
    return wheel


@pytest.mark.slow
def test_the_wheel_holds_code_configuration_and_recipes(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {str(path.relative_to(ROOT)) for path in (ROOT / "lightning_losses").rglob("*.py")}
    beside = [*(ROOT / "conf").rglob("*.yaml"), *(ROOT / "recipes").rglob("*.py")]
    expected |= {f"lightning_losses/{path.relative_to(ROOT)}" for path in beside}
    assert expected <= names
    assert "lightning_losses/py.typed" in names
    assert not any(name.startswith(("tests", "conf", "recipes", "benchmarks")) for name in names)


@pytest.mark.slow
def test_an_installed_wheel_trains_outside_the_repository(wheel, tmp_path):
    site, work = tmp_path / "site", tmp_path / "work"
    work.mkdir()
    zipfile.ZipFile(wheel).extractall(site)
    program = (
        "import sys, lightning_losses, lightning_losses.conf, lightning_losses.cli as cli; "
        "print(lightning_losses.__file__); print(lightning_losses.conf.__file__); "
        "sys.argv = ['lightning-losses', 'train', *sys.argv[1:]]; cli.main()"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, "data=digits", "trainer.max_epochs=1", "trainer.limit_train_batches=2"],
        cwd=work,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(site), "LIGHTNING_LOSSES_CACHE": str(tmp_path / "cache")},
    )
    assert run.returncode == 0, run.stderr
    assert [line.startswith(str(site)) for line in run.stdout.splitlines()[:2]] == [True, True]
    assert len(list((work / "outputs").rglob("report.md"))) == 1
