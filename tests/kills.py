"""Runs of all kinds, interrupted and killed at random, with counts: python -m tests.kills; the suite does a part."""

import argparse
import functools
import os
import random
import signal
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch

from lightning_losses.experiments.training import training
from tests.killed_work import WORK, killed
from tests.recipes.conftest import composed
from tests.recipes.test_kill import RUNS, SHORT, train
from tests.recipes.test_kill_processes import TRAINERS, assert_same, by_launcher, on_two

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10, help="of every run")
    parser.add_argument("--only", default="", help="a part of the names of runs and trainers")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    # What Lightning says of each run, on all processes; a failure is said below.
    told = os.dup(1)
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(silence, stream)
    training.source_digest = lambda *_: "the same"
    kinds, broken, started = 0, 0, time.perf_counter()
    for trainer in ("ddp", "fsdp", "shards"):
        for name, (_, overrides) in RUNS.items():
            if arguments.only not in f"{trainer}: {name}":
                continue
            config = composed(*SHORT, *TRAINERS[trainer], *overrides)
            rng = random.Random(f"{trainer} {name}")
            with tempfile.TemporaryDirectory() as folder:
                try:
                    outcome = one(functools.partial(train, config), Path(folder), rng, arguments.kills)
                except AssertionError as error:
                    broken, outcome = broken + 1, f"FAILED: {error}"
            os.write(told, f"{trainer}: {name}: {outcome}\n".encode())
            kinds += 1
    for name, work in WORK.items():
        if arguments.only not in name:
            continue
        rng = random.Random(name)
        with tempfile.TemporaryDirectory() as folder:
            try:
                outcome = killed(work, Path(folder), lambda seconds, rng=rng: rng.uniform(0, seconds), arguments.kills)
            except AssertionError as error:
                broken, outcome = broken + 1, f"FAILED: {error}"
        os.write(told, f"{name}: {outcome}\n".encode())
        kinds += 1
    os.write(told, f"{kinds} kinds of runs, {broken} failed; {time.perf_counter() - started:.0f} s\n".encode())
    return 1 if broken else 0


def one(run, folder: Path, rng: random.Random, kills: int) -> str:
    whole, interrupted, killed = (folder / name for name in ("whole", "interrupted", "killed"))
    started = time.perf_counter()
    code, steps = on_two(lambda: run(whole), whole)
    seconds = time.perf_counter() - started
    assert code == 0
    taken, interruptions, code = 0, 0, 1
    while code != 0:
        number, at = rng.choice(SIGNALS), rng.randint(1, 4)
        told = rng.choice([[0], [1], [0, 1]])
        code, more = on_two(lambda: run(interrupted), interrupted, [(rank, at, number) for rank in told])
        assert code in (0, 128 + number), code
        taken, interruptions = taken + more, interruptions + (code != 0)
    assert taken == steps, f"{taken} steps in place of {steps}"
    assert_same(whole, interrupted)
    hits, ends = 0, 0
    while hits < kills:
        # A run that ends in time is compared, and another one begun.
        code, _ = by_launcher(lambda: run(killed), killed, kill_after=rng.uniform(0, seconds))  # noqa: B023
        hits += code != 0
        if code == 0:
            assert_same(whole, killed)
            ends, killed = ends + 1, killed.with_name(f"killed{ends}")
    assert by_launcher(lambda: run(killed), killed)[0] == 0
    assert_same(whole, killed)
    return f"{interruptions} interruptions, {hits} kills"


if __name__ == "__main__":
    sys.exit(main())
