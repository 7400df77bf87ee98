"""Puts in every mistake of the lists, and prints which the tests noticed: python -m tests.mutants."""

import argparse
import importlib.util
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hydra  # noqa: F401 - this and the next ones once, for all the processes that are forked below
import hypothesis  # noqa: F401
import lightning  # noqa: F401
import pytest
import sklearn.isotonic  # noqa: F401
import torch
import torch.testing
from rich.progress import Progress

from tests.mutants.lists import MISTAKES
from tests.mutants.mistake import ROOT, Mistake

LEAST = 0.95
SECONDS = 300
# What the tests read beside the package and themselves.
COPIED = ("lightning_losses", "tests", "conf", "recipes", "benchmarks", "hydra_plugins", "pyproject.toml", "README.md")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="a part of the names of files, texts and tests")
    parser.add_argument("--jobs", type=int, default=1, help="mistakes at a time")
    arguments = parser.parse_args()
    chosen = [mistake for mistake in MISTAKES if arguments.only in f"{mistake.name} {mistake.tests}"]
    torch.set_num_threads(1)
    # Its plugins too.
    pytest.main(["--version"])
    started, survived = time.perf_counter(), []
    with (
        tempfile.TemporaryDirectory() as folder,
        ThreadPoolExecutor(arguments.jobs) as pool,
        Progress(auto_refresh=False) as progress,
    ):
        folders = [copied(Path(folder) / str(number)) for number in range(arguments.jobs)]
        narrow = list(dict.fromkeys(mistake.tests for mistake in chosen))
        bar = progress.add_task("without a mistake", total=len(narrow))
        for tests, noticed in zip(narrow, pool.map(lambda tests: with_one(folders, tests), narrow), strict=True):
            progress.update(bar, advance=1, refresh=True)
            if noticed:
                print("\n".join((folder / "output").read_text()[-2000:] for folder in folders))
                print(f"{tests} fails without a mistake")
                return 2
        bar = progress.add_task("mistakes", total=len(chosen))
        outcomes = pool.map(lambda mistake: with_one(folders, mistake.tests, mistake), chosen)
        for mistake, noticed in zip(chosen, outcomes, strict=True):
            progress.update(bar, advance=1, refresh=True)
            if not noticed:
                survived.append(mistake)
                print(f"survived: {mistake.name}", flush=True)
    killed = len(chosen) - len(survived)
    print(f"{killed} of {len(chosen)} killed, {len(survived)} survived; {time.perf_counter() - started:.0f} s")
    return 0 if chosen and killed >= LEAST * len(chosen) else 1


def copied(folder: Path) -> Path:
    """A copy of the project, with the compiled files, whose times are kept."""
    folder.mkdir()
    for name in COPIED:
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy2)(source, folder / name)
    return folder


def with_one(folders: list[Path], tests: str, mistake: Mistake | None = None) -> bool:
    """Whether the tests notice a mistake, in a copy that is free."""
    folder = folders.pop()
    try:
        if mistake is None:
            return not passes(folder, tests.split())
        path = folder / "lightning_losses" / mistake.file
        right = path.read_text()
        try:
            path.write_text(mistake.put_into(right))
            # Times and sizes need not tell it from the file before.
            Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)
            return not passes(folder, tests.split())
        finally:
            path.write_text(right)
    finally:
        folders.append(folder)


def passes(folder: Path, tests: Sequence[str]) -> bool:
    """Run tests of a copy in a process of their own; one that doesn't end is killed, and does not pass."""
    process = os.fork()
    if process == 0:
        os.setsid()
        run(folder, tests)
    ends = time.monotonic() + SECONDS
    while True:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status) == 0
        if time.monotonic() > ends:
            os.killpg(process, signal.SIGKILL)
            os.waitpid(process, 0)
            return False
        time.sleep(0.02)


def run(folder: Path, tests: Sequence[str]) -> None:
    code = 2
    try:
        sys.stdout = sys.stderr = (folder / "output").open("w", buffering=1)
        for stream in (1, 2):
            os.dup2(sys.stdout.fileno(), stream)
        os.chdir(folder)
        # The copy's package and tests, here and in the processes that tests start.
        sys.path.insert(0, str(folder))
        os.environ["PYTHONPATH"] = str(folder)
        sys.dont_write_bytecode = True
        for name in [name for name in sys.modules if name.partition(".")[0] in ("tests", "lightning_losses")]:
            del sys.modules[name]
        # Packages that are there before pytest can't be rewritten by it, nor need be.
        quiet = ("-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning")
        code = pytest.main([*tests, "-x", "-n", "0", *quiet])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
