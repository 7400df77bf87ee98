"""Runs that are killed, again and again and at the worst moments, end where an uninterrupted one ends."""

import functools
import io
import itertools
import os
import random
import re
import resource
import signal
import sys
import time
import traceback
import warnings

import lightning as L
import pytest
import torch
import torch._dynamo
from torch.optim.optimizer import register_optimizer_step_pre_hook

from lightning_losses.checkpoints.interruption import Terminated, terminable
from lightning_losses.data import Digits
from lightning_losses.experiments.kinds.classification import trainings
from lightning_losses.experiments.training import kept_networks, training
from lightning_losses.experiments.training.kept_networks import KeptNetworks
from lightning_losses.recipes.train import main
from lightning_losses.teachers import load_cached_teacher
from lightning_losses.teachers.cache_teacher import cache_teacher
from tests.recipes.conftest import composed

pytestmark = pytest.mark.distributed  # these fork, which a process can't that has run autograd on threads

SHORT = [
    "data=digits", "trainer.max_epochs=3", "trainer.limit_train_batches=3", "trainer.limit_val_batches=1",
    "trainer.enable_progress_bar=false", "model.width=4", "modules.baseline=null",
]  # fmt: skip
TEACHER = ["teacher.width=4"]
GROKFAST = "+callbacks.grokfast={_target_: lightning_losses.callbacks.interventions.grokfast.Grokfast, alpha: 0.5}"
WARM_UP = "+objective.terms.nkd.weight={_target_: lightning_losses.objective.WarmUp, value: 1.0, until: 0.9}"
RUNS = {
    "plain": (4, ["experiment=classify", "optimizer=sgd"]),
    "distillation, weights on a schedule": (4, ["experiment=distill", *TEACHER, WARM_UP.replace("+", "", 1)]),
    "PS-KD": (4, ["experiment=self_distill"]),
    "AdaFocal's bins": (4, ["experiment=classify", "objective=adafocal", "callbacks=adafocal"]),
    "class centroids": (4, ["experiment=classify", "objective=mcmi", "callbacks=class_centroids"]),
    "class means of the teacher": (4, ["experiment=distill_class_means", *TEACHER]),
    "Grokfast": (4, ["experiment=classify", GROKFAST]),
    "mixup, the best weights": (4, ["experiment=mixup", "weights=best"]),
}


class Torn:
    """A stream in which every write is two, with a moment between them."""

    def __init__(self, stream, tick):
        self.stream, self.tick = stream, tick

    def write(self, content):
        half = len(content) // 2
        self.stream.write(content[:half])
        self.stream.flush()
        self.tick()
        self.stream.write(content[half:])
        return len(content)

    def flush(self):
        self.stream.flush()


class Moments:
    """Counts the moments at which a process may be killed, and kills it at one of them."""

    def __init__(self, kill_at):
        self.count, self.kill_at = 0, kill_at

    def tick(self):
        self.count += 1
        if self.count == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def __enter__(self):
        """Before an optimizer step, within a write of a checkpoint, on both sides of every file's new name."""
        replace, rename, save, save_model = os.replace, os.rename, torch.save, kept_networks.save_model

        def around(function):
            def moved(*arguments):
                self.tick()
                function(*arguments)
                self.tick()

            return moved

        os.replace, os.rename = around(replace), around(rename)
        kept_networks.save_model = around(save_model)
        torch.save = lambda content, stream: save(content, Torn(stream, self.tick))
        register_optimizer_step_pre_hook(lambda *_: self.tick())
        return self

    def __exit__(self, *_):
        """Nothing: the process ends."""


@pytest.fixture(scope="module", autouse=True)
def warmed():
    """What every run loads and reads, once, before the forks."""
    # A source file that is edited meanwhile would make other networks, rightly.
    patch = pytest.MonkeyPatch()
    patch.setattr(training, "source_digest", lambda *_: "the same")
    _, student = trainings(config := composed(*SHORT, *TEACHER), config.modules).values()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        L.Trainer(
            accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False, limit_val_batches=1
        ).validate(student.build(torch.nn.Flatten()), student.datamodule, verbose=False)
    yield
    patch.undo()


def processor_seconds():
    """Of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def in_child(function, kill_at=None, kill_after=None):
    """Run a function in a fork that is killed at a moment, or after some seconds; the moments that it saw, or None.

    The seconds are those of its processor: what else the machine does moves no moment.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            warnings.simplefilter("ignore")
            with Moments(kill_at) as moments:
                function()
            os.write(writer, str(moments.count).encode())
            status = 0
        except BaseException:
            os.write(writer, traceback.format_exc().encode())
        os._exit(status)
    os.close(writer)
    if kill_after is not None:
        # The number that Linux gives to the clock of a process.
        clock = (~child << 3) | 2
        ended = functools.partial(os.waitid, os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        while not ended() and time.clock_gettime(clock) < kill_after:
            time.sleep(0.0005)
        os.kill(child, signal.SIGKILL)
    with os.fdopen(reader) as stream:
        told = stream.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return None
    assert status == 0, told
    return int(told)


def train(config, folder):
    kept = KeptNetworks(folder / "kept")
    *before, student = trainings(config, config.modules).values()
    found = [network.run_once(kept, folder / "checkpoints", resume=True) for network in before]
    student.run(folder / "checkpoints", resume=True, teacher=found[0].network if found else None)


def contents(folder):
    return torch.load(folder / "checkpoints" / "student" / "last.ckpt", weights_only=True)


def same(one, other, path=""):
    assert type(one) is type(other), path
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), path
    elif isinstance(one, dict):
        assert set(one) == set(other), path
        for name in one:
            if name != "seconds":  # of training, by the clock
                same(one[name], other[name], f"{path}.{name}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), path
        for number, pair in enumerate(zip(one, other, strict=True)):
            same(*pair, f"{path}[{number}]")
    else:
        assert one == other, path


@pytest.mark.parametrize("name", RUNS)
def test_a_killed_run_ends_where_an_uninterrupted_one_ends(tmp_path, name):
    kills, overrides = RUNS[name]
    config = composed(*SHORT, *overrides)
    before = processor_seconds()
    moments = in_child(lambda: train(config, tmp_path / "whole"))
    seconds = processor_seconds() - before
    rng, folder, killed = random.Random(name), tmp_path / "killed", 0
    for number in range(kills):
        if number % 2:
            done = in_child(lambda: train(config, folder), kill_after=rng.uniform(0, seconds / 2))
        else:
            done = in_child(lambda: train(config, folder), kill_at=rng.randint(1, moments // 4))
        killed += done is None
    # Most hit it while it ran, and the last of all is left alone.
    assert killed >= kills // 2
    in_child(lambda: train(config, folder))
    whole, resumed = contents(tmp_path / "whole"), contents(folder)
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "callbacks", "past_predictions"):
        same(whole.get(part), resumed.get(part), part)


def until(at_step, number, function):
    """Run a function in a fork that is sent a signal before an optimizer step; the steps it took, whether it ended."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        steps, status = itertools.count(), 1
        try:
            warnings.simplefilter("ignore")
            signal.signal(signal.SIGINT, signal.default_int_handler)
            register_optimizer_step_pre_hook(
                lambda *_: os.kill(os.getpid(), number) if next(steps) == at_step - 1 else None
            )
            with terminable():
                function()
            status = 0
        except Terminated:
            status = 128 + signal.SIGTERM
        except KeyboardInterrupt:
            status = 128 + signal.SIGINT
        except BaseException:
            os.write(writer, traceback.format_exc().encode())
            os._exit(1)
        os.write(writer, str(next(steps)).encode())
        os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as stream:
        told = stream.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 128 + number), told
    return int(told), code == 0


# What each keeps is tried by kills; these differ in what an interruption has to keep.
@pytest.mark.parametrize("name", ["PS-KD", "mixup, the best weights", "accumulated gradients"])
def test_an_interrupted_run_takes_no_step_twice_and_ends_where_an_uninterrupted_one_ends(tmp_path, name):
    _, overrides = RUNS.get(name, (0, ["experiment=classify", "trainer.accumulate_grad_batches=2"]))
    config = composed(*SHORT, *overrides, "trainer.limit_train_batches=5", "trainer.max_epochs=2")
    steps, ended = until(-1, signal.SIGINT, lambda: train(config, tmp_path / "whole"))
    assert ended
    rng, folder, taken, interruptions, ended = random.Random(name), tmp_path / "interrupted", 0, 0, False
    while not ended:
        number = rng.choice([signal.SIGINT, signal.SIGTERM])
        more, ended = until(rng.randint(1, 4), number, lambda: train(config, folder))
        taken, interruptions = taken + more, interruptions + (not ended)
    assert taken == steps and interruptions >= 2
    whole, resumed = contents(tmp_path / "whole"), contents(folder)
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "callbacks", "past_predictions", "global_step"):
        same(whole.get(part), resumed.get(part), part)


def test_a_second_interruption_ends_the_run_at_once(tmp_path):
    config = composed(*SHORT, "experiment=classify")

    def twice():
        register_optimizer_step_pre_hook(lambda *_: os.kill(os.getpid(), signal.SIGINT))
        train(config, tmp_path)

    # Both in the first step, which then isn't waited for.
    assert until(1, signal.SIGINT, twice) == (1, False)
    assert contents(tmp_path)["global_step"] == 0


def test_an_interruption_where_the_loader_tells_no_position_goes_back_to_the_last_epoch_and_says_so(tmp_path, capfd):
    config = composed(*SHORT, "experiment=classify")

    def without_position():
        Digits.train_dataloader = lambda data: torch.utils.data.DataLoader(
            data.train, batch_size=32, collate_fn=lambda batch: batch
        )
        train(config, tmp_path)

    assert until(5, signal.SIGTERM, without_position) == (5, False)
    assert contents(tmp_path)["global_step"] == 3
    told = (
        "last_checkpoint: the training DataLoader has no state_dict, so this run will continue from its last complete"
    )
    assert f"{told} epoch." in capfd.readouterr().err


@pytest.mark.parametrize("moment", range(1, 7))
def test_every_moment_of_writing_a_checkpoint_leaves_a_whole_one(tmp_path, moment):
    config = composed(*SHORT, "experiment=classify", "trainer.max_epochs=1")
    # The first: while identity.json takes its name; then within the first checkpoint, and before and after its name.
    assert in_child(lambda: train(config, tmp_path), kill_at=2 + moment) is None
    last = tmp_path / "checkpoints" / "student" / "last.ckpt"
    if last.exists():
        assert contents(tmp_path)["global_step"] == 0
    in_child(lambda: train(config, tmp_path))
    assert contents(tmp_path)["global_step"] == 3


@pytest.mark.parametrize("top_k", [None, 2])
def test_a_cache_of_a_teacher_is_finished_after_any_kill(tmp_path, top_k):
    data = Digits(batch_size=32)
    data.setup()
    torch.manual_seed(0)
    teacher = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))

    def make(folder):
        return lambda: cache_teacher(teacher, data.val, folder, top_k=top_k, batch_size=64)

    moments = in_child(make(tmp_path / "whole"))
    rng = random.Random(0)
    for number in range(6):
        if number % 2:
            in_child(make(tmp_path / "killed"), kill_after=rng.uniform(0, 0.03))
        else:
            in_child(make(tmp_path / "killed"), kill_at=rng.randint(1, moments))
    in_child(make(tmp_path / "killed"))
    (whole,), (killed,) = (tmp_path / "whole").iterdir(), (tmp_path / "killed").iterdir()
    assert whole.name == killed.name
    every = torch.arange(len(data.val))
    assert torch.equal(load_cached_teacher(whole)(every), load_cached_teacher(killed)(every))


def command_line(arguments, folder, at_step, act):
    """Run the train recipe in a fork with `act` before an optimizer step; its exit code and what it told."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.chdir(folder)
            sys.stderr, sys.stdout = os.fdopen(writer, "w"), io.StringIO()
            sys.argv = ["lightning-losses train", *arguments]
            steps = itertools.count(1)
            register_optimizer_step_pre_hook(lambda *_: act() if next(steps) == at_step else None)
            main()
            status = 0
        except SystemExit as left:
            status = left.code
        except BaseException:
            traceback.print_exc()
        sys.stderr.flush()
        os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as stream:
        told = stream.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), told


def fill_the_disk():
    # Of all that the system refuses to write, this is what a test may ask for: no file may grow beyond 3000 bytes.
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))


@pytest.mark.parametrize(
    ("act", "code", "message"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGTERM), 143, "Interrupted. Continue this run by\n"),
        (lambda: signal.raise_signal(signal.SIGINT), 130, "Interrupted. Continue this run by\n"),
        (fill_the_disk, 2, r"Error: .*last\.ckpt can't be written: File too large\.\nWhen that is mended, continue"),
    ],
    ids=["SIGTERM", "Ctrl-C", "a full disk"],
)
def test_an_interruption_leaves_a_good_checkpoint_and_the_command_that_goes_on(tmp_path, act, code, message):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    overrides = [*SHORT, "experiment=classify"]
    arguments = [*overrides, "hydra.run.dir=run", "logger=none"]
    found, told = command_line(arguments, tmp_path, 5, act)
    assert found == code, told
    assert re.search(message, told) and "lightning-losses train resume=run" in told and "Traceback" not in told
    # Of the step that was interrupted, or the last whole epoch, and nothing half written beside it.
    assert contents(tmp_path / "run")["global_step"] == (3 if code == 2 else 5)
    assert not list((tmp_path / "run").rglob("*.partial"))
    config = composed(*overrides)
    in_child(lambda: train(config, tmp_path / "run"))
    in_child(lambda: train(config, tmp_path / "whole"))
    same(contents(tmp_path / "whole")["state_dict"], contents(tmp_path / "run")["state_dict"])


def test_a_folder_that_can_not_be_written_to_is_known_before_anything_runs(tmp_path):
    (tmp_path / "file").write_text("")
    code, told = command_line([*SHORT, "experiment=classify", "output=file/runs"], tmp_path, None, None)
    assert (
        code == 2 and "file can't be written: Not a directory; give another folder." in told and told.count("\n") == 1
    )
