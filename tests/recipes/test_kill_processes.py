"""Runs of several processes that are interrupted within an epoch end where uninterrupted ones end, to the bit.

In a bounded form; `make kills` interrupts every kind of run under every trainer.
"""

import contextlib
import functools
import itertools
import os
import runpy
import signal
import sys
import time
import traceback
import types
import warnings
from pathlib import Path

import lightning as L
import pytest
import torch
import torch._dynamo
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver
from lightning.pytorch.strategies.launchers import subprocess_script
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import OmegaConf

from lightning_losses.checkpoints import LastCheckpoint, interruption
from lightning_losses.checkpoints.atomic_checkpoints import read_checkpoint
from lightning_losses.experiments import launch, messages
from lightning_losses.experiments.kinds.classification import trainings
from lightning_losses.experiments.training import training
from tests.distributed.processes import run_on_processes
from tests.recipes.conftest import composed
from tests.recipes.test_kill import SHORT, fill_the_disk, in_child, same, train
from tests.recipes.test_trainers import under_slurm

pytestmark = pytest.mark.distributed

TWO = ["trainer.accelerator=cpu", "trainer.devices=2"]
TRAINERS = {
    "ddp": ["trainer=ddp", *TWO],
    "ddp_fork": ["trainer=ddp_fork"],
    "fsdp": ["trainer=fsdp", *TWO, "trainer.strategy.min_parameters=100"],
    "shards": ["trainer=fsdp", *TWO, "trainer.strategy.min_parameters=100",
               "trainer.strategy.save_distributed_checkpoint=true"],
    "slurm": ["trainer=slurm", "trainer.accelerator=cpu"],
}  # fmt: skip
# Each process draws numbers of its own for dropout, and has sums of its own of the begun epoch.
OWN = [
    *("experiment=classify", "objective=mcmi", "callbacks=class_centroids", "model=vit_tiny"),
    *("+model.proj_drop_rate=0.3", "model.embed_dim=16", "model.depth=1", "trainer.accumulate_grad_batches=2"),
    *("trainer.limit_train_batches=6", "trainer.max_epochs=2"),
]
STEPS = 6
PARTS = ("state_dict", "optimizer_states", "lr_schedulers", "callbacks", "past_predictions", "global_step")


@pytest.fixture(scope="module", autouse=True)
def warmed():
    """What every run loads and reads, once, before the forks."""
    # A source file that is edited meanwhile would make other networks, rightly.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "source_digest", lambda *_: "the same")
        config = composed(*short(*OWN), *OWN)
        (student,) = trainings(config, config.modules).values()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            L.Trainer(
                accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False,
                limit_val_batches=1,
            ).validate(student.build(), student.datamodule, verbose=False)  # fmt: skip
        yield


def short(*overrides):
    return [line for line in SHORT if not (line.startswith("model.width") and "model=vit_tiny" in overrides)]


def interrupted_at(steps_file, sent=()):
    """Have every optimizer step of this process, and of what it forks, recorded, and some of them interrupted.

    `sent` are `(to, step, signal)`: before a step of its own a process sends the signal; `to` is its rank, or "group"
    or "parent", which the first process sends it to. In place of a signal it may be something that is called.
    """
    count, take = itertools.count(1), L.LightningModule.optimizer_step

    def step(module, *arguments, **options):
        now, rank = next(count), module.trainer.global_rank
        with steps_file.with_name(f"{steps_file.name}{rank}").open("a") as stream:
            stream.write(".")
        for to, at, number in sent:
            if at == now and to == rank:
                number() if callable(number) else os.kill(os.getpid(), number)
            elif at == now and rank == 0 and to in ("group", "parent"):
                os.killpg(0, number) if to == "group" else os.kill(os.getppid(), number)
                heard = next(each for each in module.trainer.callbacks if isinstance(each, LastCheckpoint)).interruption
                for _ in range(1000):  # It comes by way of another process.
                    if heard.received:
                        break
                    time.sleep(0.01)
        return take(module, *arguments, **options)

    L.LightningModule.optimizer_step = step


def steps_taken(steps_file, equal=True):
    """By both processes, which took the same ones; forgotten, once told."""
    first, second = (steps_file.with_name(f"{steps_file.name}{rank}") for rank in (0, 1))
    taken = first.read_text() if first.exists() else ""
    assert not equal or taken == (second.read_text() if second.exists() else "")
    for file in (first, second):
        file.unlink(missing_ok=True)
    return len(taken)


def exit_code(function):
    """What the recipe would leave with."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with interruption.terminable():
            function()
    except KeyboardInterrupt as interrupt:
        return interruption.exit_code(interrupt)
    except OSError as error:
        assert messages.refused(error) and "last.ckpt can't be written: File too large." in messages.message(error)
        return 2
    return 0


def on_two(function, folder, sent=()):
    """Run a function on two processes that someone else started, as srun and torchrun do; their common exit code."""

    def member():
        interrupted_at(folder.with_suffix(".steps"), sent)
        folder.with_suffix(f".code{os.environ['RANK']}").write_text(str(exit_code(function)))

    run_on_processes(member, 2)
    first, second = (folder.with_suffix(f".code{rank}").read_text() for rank in (0, 1))
    assert first == second
    return int(first), steps_taken(folder.with_suffix(".steps"))


class Started:
    """A process that Lightning's launcher starts by running the command again; here it runs the function again."""

    def __init__(self, function, tell, command, env, cwd):
        self.returncode, self.pid = None, os.fork()
        if self.pid == 0:
            os.environ.update(env)
            # As a new interpreter has it.
            sys.orig_argv = command
            rank_zero_only.rank = int(env["LOCAL_RANK"])
            ended = 1
            # Before there are threads: two at once would make torch's pool anew after a fork, and one find none.
            torch.set_num_threads(1)
            try:
                ended = exit_code(function)
            except BaseException:
                os.write(tell, f"The process that was started: {traceback.format_exc()}".encode())
            os._exit(ended)

    def poll(self):
        # By the launcher's watch and by this file at once: one of them learns it.
        with contextlib.suppress(ChildProcessError):
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def wait(self):
        while self.poll() is None:
            time.sleep(0.01)


def by_launcher(function, folder, sent=(), kill_after=None):
    """Run a function in a process, the first in a group of its own, where a trainer starts the second one.

    After some seconds, if they are given, the group is killed.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status, started = 1, []
        # An earlier test's, which the launcher would pass on.
        HydraConfig.instance().cfg = None

        def start(*arguments, **options):
            started.append(Started(function, writer, *arguments, **options))
            return started[-1]

        try:
            os.setpgrp()
            torch.set_num_threads(1)
            # An earlier test may have looked for GPUs, after which a fork is not to use them; none of these does.
            torch.cuda._is_in_bad_fork = lambda: False
            interrupted_at(folder.with_suffix(".steps"), sent)
            subprocess_script.subprocess = types.SimpleNamespace(Popen=start)
            # Its watch looks for processes that fail, in place of every five seconds, all the time.
            _ChildProcessObserver.__init__.__defaults__ = (0.01,)
            status = exit_code(function)
            # The other leaves first, which the watch must not take for a failure.
            for process in started:
                process.wait()
            time.sleep(0.1)
        except BaseException:
            os.write(writer, traceback.format_exc().encode())
        os._exit(status)
    os.close(writer)
    if kill_after is not None:
        time.sleep(kill_after)
        # Also what is left of the group when its first process has ended.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
    with os.fdopen(reader) as stream:
        told = stream.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    # The second one's end may reach the first one before its own.
    killed = kill_after is not None and "Connection " in told and "that was started" not in told
    assert code != 1 or killed, told
    # What is killed may leave one step that a process began alone.
    return code, steps_taken(folder.with_suffix(".steps"), equal=kill_after is None)


def contents(folder):
    return read_checkpoint(folder / "checkpoints" / "student" / "last.ckpt")


def assert_same(whole, resumed):
    whole, resumed = contents(whole), contents(resumed)
    for part in PARTS:
        same(lists(whole.get(part)), lists(resumed.get(part)), part)


def lists(value):
    """With lists for tuples: torch restores the options of a sharded optimizer so."""
    if isinstance(value, dict):
        return {name: lists(each) for name, each in value.items()}
    return [lists(each) for each in value] if isinstance(value, list | tuple) else value


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of two processes that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    config = composed(*short(*OWN), *TRAINERS["ddp"], *OWN)
    assert on_two(lambda: train(config, folder), folder) == (0, STEPS)
    return folder


@pytest.mark.parametrize(("trainer", "start", "sent"), [
    ("ddp", by_launcher, [("group", 2, signal.SIGTERM)]),
    ("ddp", on_two, [(1, 2, signal.SIGTERM)]),
    ("ddp_fork", by_launcher, [("parent", 2, signal.SIGINT)]),
], ids=["the launcher's group", "one process alone", "what forked them alone"])  # fmt: skip
def test_an_interrupted_run_goes_on_with_the_next_step(whole, tmp_path, trainer, start, sent):
    config, folder = composed(*short(*OWN), *TRAINERS[trainer], *OWN), tmp_path / "run"
    run = functools.partial(train, config, folder)
    assert start(run, folder, sent) == (128 + sent[0][2], 2)
    assert contents(folder)["global_step"] == 2
    assert start(run, folder) == (0, STEPS - 2)
    assert_same(whole, folder)


def run_command(command):
    """What the interpreter does with a command, in this process, which has loaded everything."""
    _, *words = command
    # A new process has none of these.
    GlobalHydra.instance().clear()
    sys.modules.pop("lightning_losses.__main__", None)
    try:
        if words[0] == "-m":
            sys.argv = words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = words
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as left:
        assert not left.code, left.code


@pytest.mark.parametrize(("how", "trainer"), [
    ([str(Path(sys.executable).with_name("lightning-losses"))], "ddp"), (["-m", "lightning_losses"], "fsdp"),
], ids=["the script, ddp", "the module, fsdp"])  # fmt: skip
def test_two_processes_train_by_the_command_what_one_does(tmp_path, how, trainer):
    words = [sys.executable, *how, "train", *SHORT, "experiment=classify", "logger=none", "trainer.max_epochs=1"]
    one, two = tmp_path / "one", tmp_path / "two"
    in_child(lambda: run_command([*words, f"hydra.run.dir={one}"]))
    # The second process runs the command that the launcher starts, the first one what was typed.
    first = [*words, *TRAINERS[trainer], f"hydra.run.dir={two}"]
    run = lambda: run_command(sys.orig_argv if "LOCAL_RANK" in os.environ else first)  # noqa: E731
    assert by_launcher(run, two) == (0, 3)
    assert (two / "report" / "report.json").is_file()
    torch.testing.assert_close(contents(two)["state_dict"], contents(one)["state_dict"], rtol=1e-2, atol=1e-3)


def test_sharded_networks_go_on_likewise_and_a_signal_that_is_passed_on_counts_once(tmp_path):
    overrides = ["experiment=classify", "optimizer=adamw", "trainer.max_epochs=2"]
    config = composed(*SHORT, *TRAINERS["shards"], *overrides)
    for name in ("whole", "run"):
        run, sent = functools.partial(train, config, tmp_path / name), []
        if name == "run":
            sent = [(1, 1, signal.SIGTERM), (1, 1, signal.SIGTERM)]
            assert on_two(run, tmp_path / name, sent) == (128 + signal.SIGTERM, 1)
        assert on_two(run, tmp_path / name) == (0, 5 if sent else 6)
    assert_same(tmp_path / "whole", tmp_path / "run")
    shards = tmp_path / "run" / "checkpoints" / "student" / "last.ckpt"
    digests = [line.split("  ")[1] for line in (shards / "digests.sha256").read_text().splitlines()]
    assert sorted([*digests, "digests.sha256"]) == sorted(path.name for path in shards.iterdir())


@pytest.mark.parametrize(("trainer", "start"), [("ddp", on_two), ("ddp_fork", by_launcher), ("shards", on_two)])
def test_where_a_checkpoint_can_not_be_written_all_processes_end_and_the_one_before_stays(tmp_path, trainer, start):
    config = composed(*SHORT, *TRAINERS[trainer], "experiment=classify", "trainer.max_epochs=2")
    folder = tmp_path / "run"
    # The second epoch's, on the disk of the first process.
    assert start(functools.partial(train, config, folder), folder, [(0, 5, fill_the_disk)]) == (2, 6)
    assert contents(folder)["global_step"] == 3


def test_a_job_at_its_time_limit_is_queued_again_and_goes_on(whole, tmp_path, monkeypatch):
    commands = tmp_path / "commands"
    commands.mkdir()
    (commands / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path / "queued"}\n')
    (commands / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    folder = tmp_path / "run"
    config = composed(*short(*OWN), *TRAINERS["slurm"], *OWN, *TWO)

    def job():
        under_slurm()
        train(config, folder)

    # SLURM tells each process; they are not at the same place when they hear of it.
    sent = [(0, 2, signal.SIGUSR1), (1, 2, signal.SIGUSR1), (1, 2, signal.SIGTERM)]
    # The run's own code; by then SLURM has queued the job again.
    assert on_two(job, folder, sent) == (130, 2)
    assert (tmp_path / "queued").read_text() == "requeue 7\n"
    assert contents(folder)["global_step"] == 2 and list(folder.rglob("hpc_ckpt_1.ckpt"))
    assert on_two(job, folder) == (0, STEPS - 2)
    assert_same(whole, folder)
    assert not list(folder.rglob("hpc_ckpt*"))


@pytest.mark.parametrize(("count", "goes_on"), [("0", False), ("1", True), ("2", True)])
def test_a_job_that_is_queued_again_resumes_its_run(tmp_path, monkeypatch, count, goes_on):
    found = []
    hydra = {"runtime": {"output_dir": str(tmp_path)}, "overrides": {"task": []}}

    def experiment_of(config, *_):
        return types.SimpleNamespace(run=lambda folder: found.append(config.resume), no_sweep="it returns no number")

    monkeypatch.setattr(launch, "experiment_of", experiment_of)
    monkeypatch.setenv("SLURM_RESTART_COUNT", count)
    monkeypatch.setattr(launch.HydraConfig, "get", lambda: OmegaConf.create(hydra))
    job = launch._guarded("train")
    job(OmegaConf.create({"resume": None, "debug": False}))
    (tmp_path / "checkpoints").mkdir()
    job(OmegaConf.create({"resume": None, "debug": False}))
    # Killed before its first training, there is nothing to go on from.
    assert found == [None, str(tmp_path) if goes_on else None]
