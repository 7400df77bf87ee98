"""What `make kills` kills beside trainings: sweeps, calibrations, teachers' caches, two runs at once."""

import contextlib
import json
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from lightning_losses.checkpoints.atomic_checkpoints import read_checkpoint
from lightning_losses.data import Digits
from lightning_losses.experiments.config.check_config import ConfigError
from lightning_losses.experiments.kinds.classification import trainings
from lightning_losses.experiments.launch import launch
from lightning_losses.experiments.training.kept_networks import KeptNetworks
from lightning_losses.experiments.training.teacher_cache import cached_teacher
from lightning_losses.teachers import load_cached_teacher
from lightning_losses.teachers.cache_teacher import cache_teacher
from tests.experiments.sweeps.test_runner import run as run_sweep
from tests.recipes.conftest import composed
from tests.recipes.test_kill import SHORT, TEACHER


class Work(NamedTuple):
    """Something that is made in a folder, by the same call again after a kill, and what it comes to."""

    make: Callable[[Path], None]
    result: Callable[[Path], Any]


def sweep(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    until = time.monotonic() + 30
    while True:
        # The trials of a sweep that was killed end by themselves, a moment later.
        with contextlib.suppress(ConfigError):
            run_sweep(folder, parameters={"lr": {"values": [3.0, 1.0, 2.0]}, "seconds": {"value": 0.1}})
            return
        assert time.monotonic() < until, "the sweep's folder stays locked"


def trials(folder: Path) -> Any:
    found: dict[int, tuple[str, list[Any]]] = {}
    for line in map(json.loads, (folder / "sweep" / "trials.jsonl").read_text().splitlines()):
        metrics = folder / "sweep" / "trials" / f"{line['trial']:04d}" / "metrics.jsonl"
        found[line["trial"]] = line["event"], metrics.read_text().splitlines()
    return found


def calibrate(folder: Path) -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(200, 3))
    folder.mkdir(exist_ok=True)
    target = (logits + generator.gumbel(size=logits.shape)).argmax(1)
    np.savez(folder / "logits.npz", logits=3 * logits, target=target)
    launch("calibrate", [f"logits={folder / 'logits.npz'}", "resamples=5", f"hydra.run.dir={folder / 'run'}"], "it")


def calibration(folder: Path) -> Any:
    report = json.loads((folder / "run" / "calibration.json").read_text())
    left_out = ("command", "settings", "seconds")
    numbers = {name: value for name, value in report.items() if name not in left_out}
    return numbers, (folder / "run" / "calibrator.safetensors").read_bytes()


def teacher_and_data() -> tuple[torch.nn.Module, Digits]:
    data = Digits(batch_size=32)
    data.setup()
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)), data


def cache(folder: Path) -> None:
    teacher, data = teacher_and_data()
    cache_teacher(teacher, data.train, folder, batch_size=16)


def cached(folder: Path) -> Any:
    (only,) = folder.iterdir()
    return load_cached_teacher(only)(torch.arange(len(teacher_and_data()[1].train))).tolist()


def two_runs(folder: Path) -> None:
    """Two students at once, of one teacher, which is kept, and of its cached logits."""
    config = composed(*SHORT, *TEACHER, "experiment=distill", "trainer.max_epochs=2")

    def one(name: str) -> None:
        teacher, student = trainings(config, config.modules).values()
        kept, checkpoints = KeptNetworks(folder / "kept"), folder / name
        network = teacher.run_once(kept, checkpoints, resume=True).network
        logits = cached_teacher(network, student, folder / "logits", kept="full", temperature=1.0)
        student.run(checkpoints, resume=True, teacher=logits)

    members = [multiprocessing.get_context("fork").Process(target=one, args=(name,)) for name in ("a", "b")]
    for member in members:
        member.start()
    for member in members:
        member.join()
    assert [member.exitcode for member in members] == [0, 0]


def students(folder: Path) -> Any:
    weights = [read_checkpoint(folder / name / "student" / "last.ckpt")["state_dict"] for name in ("a", "b")]
    return [{name: value.tolist() for name, value in each.items()} for each in weights]


WORK = {
    "sweep": Work(sweep, trials),
    "calibrate": Work(calibrate, calibration),
    "cache_teacher": Work(cache, cached),
    "two runs at once": Work(two_runs, students),
}


def in_group(function: Callable[[], None], kill_after: float | None = None) -> bool:
    """Run a function in a process with a group of its own, which is killed after some seconds; whether it ended first.

    Raises:
        AssertionError: it failed by itself.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setpgrp()
            torch.set_num_threads(1)
            function()
            status = 0
        except BaseException:
            os.write(writer, traceback.format_exc().encode()[-4000:])
        os._exit(status)
    os.close(writer)
    until = time.monotonic() + (600.0 if kill_after is None else kill_after)
    while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None and time.monotonic() < until:
        time.sleep(0.001)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with os.fdopen(reader) as stream:
        told = stream.read() if code == 1 else ""
    assert code in (0, -signal.SIGKILL), told
    return code == 0


def killed(work: Work, folder: Path, draw: Callable[[float], float], kills: int) -> str:
    """Kill work again and again at random, until it has been killed so often; it comes to what it comes to alone."""
    started = time.perf_counter()
    assert in_group(lambda: work.make(folder / "whole"))
    seconds, whole = time.perf_counter() - started, work.result(folder / "whole")
    hits = ends = 0
    while hits < kills:
        place = folder / f"killed{ends}"
        # One that ends in time is compared, and another one begun.
        ended = in_group(lambda place=place: work.make(place), draw(seconds))
        hits += not ended
        if ended:
            assert work.result(place) == whole
            ends += 1
    place = folder / f"killed{ends}"
    assert in_group(lambda: work.make(place))
    assert work.result(place) == whole
    return f"{hits} kills, {ends + 1} ends"
