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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

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
    with tempfile.TemporaryDirectory() as folder, Progress(auto_refresh=False) as progress:
        folders = [copied(Path(folder) / str(number)) for number in range(arguments.jobs)]
        narrow = [Trial(tests, None) for tests in dict.fromkeys(mistake.tests for mistake in chosen)]
        bar = progress.add_task("without a mistake", total=len(narrow))
        for trial, passed, output in outcomes(folders, narrow):
            progress.update(bar, advance=1, refresh=True)
            if not passed:
                print(f"{output.read_text()[-2000:]}\n{trial.tests} fails without a mistake")
                return 2
        bar = progress.add_task("mistakes", total=len(chosen))
        for trial, passed, _ in outcomes(folders, [Trial(mistake.tests, mistake) for mistake in chosen]):
            progress.update(bar, advance=1, refresh=True)
            if passed:
                survived.append(trial)
                print(f"survived: {trial.mistake.name}", flush=True)
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


class Trial(NamedTuple):
    """Tests that run in a copy of the project, with a mistake in it or without one."""

    tests: str
    mistake: Mistake | None


class Running(NamedTuple):
    """A trial's process, its copy, what the changed file said before, and when it is killed."""

    trial: Trial
    process: int
    folder: Path
    right: str
    ends: float

    def put_right(self) -> None:
        if self.trial.mistake is not None:
            (self.folder / "lightning_losses" / self.trial.mistake.file).write_text(self.right)


def outcomes(folders: list[Path], trials: Sequence[Trial]) -> Iterator[tuple[Trial, bool, Path]]:
    """Each trial, whether its tests passed, and the file of what they printed, as one after the other ends.

    Every trial is forked from the main thread: a process forked from another can't end in peace.
    """
    free, waiting, running = list(folders), list(reversed(trials)), list[Running]()
    try:
        while waiting or running:
            while waiting and free:
                running.append(start(waiting.pop(), free.pop()))
            for one in list(running):
                passed = ended(one)
                if passed is not None:
                    one.put_right()
                    running.remove(one)
                    yield one.trial, passed, one.folder / "output"
                    free.append(one.folder)
            time.sleep(0.02)
    finally:
        for one in running:
            os.killpg(one.process, signal.SIGKILL)


def start(trial: Trial, folder: Path) -> Running:
    """Put the mistake in and start the tests, in a process and a process group of their own."""
    right = ""
    if trial.mistake is not None:
        path = folder / "lightning_losses" / trial.mistake.file
        right = path.read_text()
        path.write_text(trial.mistake.put_into(right))
        # Times and sizes need not tell it from the file before.
        Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)
    process = os.fork()
    if process == 0:
        os.setsid()
        run(folder, trial.tests.split())
    return Running(trial, process, folder, right, time.monotonic() + SECONDS)


def ended(one: Running) -> bool | None:
    """Whether the tests passed; None while they run. One that doesn't end is killed, and doesn't pass."""
    done, status = os.waitpid(one.process, os.WNOHANG)
    if done:
        return os.waitstatus_to_exitcode(status) == 0
    if time.monotonic() < one.ends:
        return None
    os.killpg(one.process, signal.SIGKILL)
    os.waitpid(one.process, 0)
    return False


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
