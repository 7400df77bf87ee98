"""Two processes that make one thing at once: each ends with a whole one, and nothing is made twice or mixed."""

import contextlib
import errno
import functools
import multiprocessing
import os
import sys
import traceback
import types
from pathlib import Path

import pytest
import torch
from torch import nn

from lightning_losses.checkpoints import run_folder
from lightning_losses.data.image_data import ImageDataset
from lightning_losses.environment import locks
from lightning_losses.experiments import launch as launching
from lightning_losses.experiments.kinds.classification import trainings
from lightning_losses.experiments.training import training
from lightning_losses.experiments.training.kept_networks import KeptNetworks
from lightning_losses.teachers import load_cached_teacher
from lightning_losses.teachers.cache_teacher import cache_teacher
from tests.distributed.processes import run_on_processes
from tests.recipes.conftest import SHORT, composed

pytestmark = pytest.mark.distributed
DATA = ImageDataset(torch.randn(40, 1, 2, 2, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 6)


def both(function):
    """Call `function(number, wait)` in two forks at once, where `wait` lets neither go before the other."""
    context = multiprocessing.get_context("fork")
    barrier, errors = context.Barrier(2), context.SimpleQueue()

    def member(number):
        torch.set_num_threads(1)
        try:
            function(number, functools.partial(barrier.wait, 30))
        except BaseException:
            errors.put(traceback.format_exc())
            barrier.abort()

    members = [context.Process(target=member, args=(number,)) for number in range(2)]
    for each in members:
        each.start()
    for each in members:
        each.join()
    assert errors.empty(), errors.get()


class Teacher(nn.Sequential):
    """Notes in a file how often it is evaluated."""

    def forward(self, inputs):
        with open(os.environ["EVALUATIONS"], "a") as stream:
            stream.write(".")
        return super().forward(inputs)


@pytest.mark.parametrize(("system", "evaluations"), [("with locks", 10), ("without locks", 20)])
def test_one_makes_a_cache_and_the_other_waits_or_makes_its_own(tmp_path, monkeypatch, system, evaluations):
    monkeypatch.setenv("EVALUATIONS", str(tmp_path / "evaluations"))
    if system == "without locks":
        monkeypatch.setattr(locks, "fcntl", None)
    teacher = Teacher(nn.Flatten(), nn.Linear(4, 6))

    def make(number, wait):
        wait()
        path = cache_teacher(teacher, DATA, tmp_path / "caches", batch_size=4, identity="counted")
        cached = load_cached_teacher(path)(torch.arange(40))
        with torch.no_grad():
            torch.testing.assert_close(cached, nn.Sequential.forward(teacher, DATA.inputs))

    if system == "without locks":
        # Both look before either begins.
        take = locks.take_lock

        def after_the_other(function, wait, *arguments):
            wait()
            return function(*arguments)

        def make_at_once(number, wait):
            locks.take_lock = functools.partial(after_the_other, take, wait)
            make(number, wait)

        both(make_at_once)
    else:
        both(make)
    assert len((tmp_path / "evaluations").read_text()) == evaluations
    (only,) = (tmp_path / "caches").iterdir()
    assert only.name.isalnum()


@pytest.mark.parametrize("system", ["with locks", "without locks"])
def test_of_two_that_keep_a_network_the_first_stays(tmp_path, monkeypatch, system):
    if system == "without locks":
        monkeypatch.setattr(locks, "fcntl", None)
    kept = KeptNetworks(tmp_path / "networks")
    both(lambda number, wait: (wait(), [kept.save({"seed": s}, nn.Linear(3, 2), {"by": number}) for s in range(20)]))
    assert all(kept.load({"seed": seed}, nn.Linear(3, 2))["by"] in (0, 1) for seed in range(20))
    assert len(list(kept.folder.iterdir())) == 20
    network = nn.Linear(3, 2)
    before = kept.load({"seed": 0}, network)
    kept.save({"seed": 0}, nn.Linear(3, 2), {"by": 2})
    assert kept.load({"seed": 0}, nn.Linear(3, 2)) == before


def test_a_network_that_another_run_keeps_between_two_looks_is_trained_by_all_processes_or_by_none(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "source_digest", lambda *_: "the same")
        short = [*SHORT, "trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu", "trainer.max_epochs=1"]
        teacher = trainings(config := composed(*short, "modules.baseline=null"), config.modules)["teacher"]
        kept = KeptNetworks(tmp_path / "networks")
        kept.save(teacher.identity, teacher.build().get_submodule("network"), {"history": {}, "seconds": 0.0})
        load = KeptNetworks.load

        def train(seen_by):
            rank = int(os.environ["RANK"])
            KeptNetworks.load = lambda *arguments: load(*arguments) if rank == seen_by else None
            trained = teacher.run_once(kept, tmp_path / "checkpoints")
            assert trained.kept == (rank == seen_by == 0)

        run_on_processes(lambda: train(seen_by=1), 2)
        # What only the first one can read is no network of all.
        with pytest.raises(AssertionError, match=r"cache: the first process has kept the teacher, and this one can't"):
            run_on_processes(lambda: train(seen_by=0), 2)


def test_two_runs_that_start_in_one_second_take_two_folders_and_one_folder_is_held_by_one_run(
    tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_folder, "_SECONDS", 0.0)
    words, new = ["experiment=classify", "data=digits", "output=runs"], run_folder.new

    class Made(types.SimpleNamespace):
        no_sweep = "it returns no number"

        def rehearse(self):
            pass

        def run(self, folder):
            (folder / "result").write_text(str(self.config.seed))

    monkeypatch.setattr(launching, "experiment_of", lambda config, *_: Made(config=config))
    # For two is one second too short to start in.
    monkeypatch.setattr(run_folder, "new", lambda folder: new(folder.with_name("12-00-00")))
    both(lambda number, wait: (wait(), launching.launch("train", [*words, f"seed={number}"], "train")))
    (day,) = (tmp_path / "runs").iterdir()
    folders = sorted(day.iterdir())
    assert [folder.name for folder in folders] == ["12-00-00", "12-00-00_2"]
    results = [(folder / "result").read_text() for folder in folders]
    assert sorted(results) == ["0", "1"]
    for folder, seed in zip(folders, results, strict=True):
        assert f"seed={seed}" in (folder / ".hydra" / "overrides.yaml").read_text()
        assert not (folder / ".lock").exists()
    before = (folders[0] / ".hydra" / "overrides.yaml").read_text()
    capfd.readouterr()
    with locks.locked(folders[0] / ".lock"), pytest.raises(SystemExit) as left:
        launching.launch("train", [f"resume={folders[0]}", "seed=7"], "train")
    assert left.value.code == 2
    assert "a run is going on in this folder; wait for its end, or give another folder." in capfd.readouterr().err
    assert (folders[0] / ".hydra" / "overrides.yaml").read_text() == before


def test_a_lock_is_let_go_by_a_kill_and_follows_no_link(tmp_path):
    path = tmp_path / "lock"

    def hold(number, wait):
        if number == 0:
            with contextlib.suppress(BaseException), locks.locked(path):
                wait()
                os._exit(1)
        else:
            wait()
            with locks.locked(path, patience=10) as held:
                assert held

    both(hold)
    assert not path.exists()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="lock"), locks.locked(path):
        pass
    assert not Path(tmp_path / "elsewhere").exists()


def test_another_users_lock_is_waited_for(tmp_path, monkeypatch):
    path, opened = tmp_path / "lock", os.open

    def as_another_user(file, flags, *mode):
        # What the system answers who may read a file and not write to it.
        if flags & (os.O_RDWR | os.O_CREAT):
            raise PermissionError(errno.EACCES, "Permission denied", str(file))
        return opened(file, flags, *mode)

    with locks.locked(path), monkeypatch.context() as patch:
        patch.setattr(os, "open", as_another_user)
        with pytest.raises(BlockingIOError, match="another process holds this lock"), locks.locked(path, patience=0.1):
            pass
    path.write_text("")
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", as_another_user)
        with locks.locked(path) as held:
            assert held
        # The lock is gone, and no other can be made: what came first is told.
        with pytest.raises(PermissionError, match="Permission denied"), locks.locked(path):
            pass


def test_what_another_user_has_finished_in_a_folder_of_theirs_is_read(tmp_path, monkeypatch):
    teacher, rows = torch.nn.Linear(2, 3), [{"inputs": torch.ones(2), "target": torch.tensor(0)}]

    @contextlib.contextmanager
    def theirs(path):
        # While this process waited, the other one made the cache and let go of its lock.
        monkeypatch.undo()
        cache_teacher(teacher, rows, tmp_path)
        raise PermissionError(errno.EACCES, "Permission denied", str(path))
        yield

    monkeypatch.setattr(sys.modules[cache_teacher.__module__], "locked", theirs)
    home = cache_teacher(teacher, rows, tmp_path)
    assert cache_teacher(teacher, rows, tmp_path) == home

    def refused(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(sys.modules[cache_teacher.__module__], "locked", refused)
    with pytest.raises(PermissionError, match="Permission denied"):
        cache_teacher(teacher, rows * 2, tmp_path)
