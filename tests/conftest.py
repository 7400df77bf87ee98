"""Seeds, thread counts and plotting for every test."""

import functools
import gc
import itertools
import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("WANDB_SILENT", "true")
# Lightning's command line calls jsonargparse by older names.
os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
# Some hundred processes that tests start would compile the package anew, each for itself.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

import hypothesis
import pytest
import torch

sys.dont_write_bytecode = False
torch.set_num_threads(1)
hypothesis.settings.register_profile("suite", deadline=None, max_examples=25, derandomize=True)
hypothesis.settings.load_profile("suite")


def pytest_configure(config):
    # Runs on the CPU are equal to the bit: the suite hides GPUs, from its subprocesses too, except with "-m cuda". CUDA
    # reads this when it starts, not when torch is imported. (An empty value would be no value on Windows.)
    if config.option.markexpr.startswith("cuda"):
        # cuBLAS reads it once in a process, and some tests are of deterministic runs.
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    else:
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
        # Autograd counts the devices at its first backward pass. Counted among fake tensors there would be one, with a
        # thread of its own, and no process that has threads of autograd can be forked.
        torch.ones((), requires_grad=True).backward()


@pytest.fixture(autouse=True)
def seed():
    # torch.manual_seed writes down the stack for each device that has not begun, which takes as long as a test.
    (torch.manual_seed if torch.cuda.is_available() else torch.default_generator.manual_seed)(0)


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device, and is run by: make test-cuda"))
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 11):
        for item in items:
            if item.get_closest_marker("one_graph"):
                item.add_marker(pytest.mark.skip(reason="torch before 2.11 breaks the graph"))
    # A process that has run autograd on threads can't be forked any more: what forks goes first. Files with slow tests
    # follow, so that two workers end at about the same time.
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.get_closest_marker("distributed") is None, item.path not in slow))


def pytest_collection_finish():
    # Each of some thousand Trainers would look through all installed packages for callbacks: 10 ms.
    if (registry := sys.modules.get("lightning.fabric.utilities.registry")) is not None:
        registry.entry_points = functools.cache(registry.entry_points)
    # To measure how long its guards take, torch's compiler empties the processor's caches: 20 ms for each graph.
    if hasattr(guards := sys.modules.get("torch._dynamo.guards"), "profile_guard_manager"):
        guards.profile_guard_manager = lambda *_: 0.0
    # What imports made stays to the end: walking over it at each collection would be a quarter of the suite's time.
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed and not hasattr(torch.cpu.Stream, "record_event") and "record_event" in str(call.excinfo.value):
        report.outcome, report.longrepr = "skipped", (str(item.path), None, "torch 2.6 shards on GPUs alone")
    return report


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Deal neighbours of one file to one worker, in order: what they share is made once, and what forks stays first."""
    from xdist.scheduler import LoadScopeScheduling

    class Neighbours(LoadScopeScheduling):
        units = None

        def _split_scope(self, nodeid):
            if self.units is None:
                paths = [test.partition("::")[0] for test in self.collection]
                starts = itertools.accumulate(a != b for a, b in itertools.pairwise(["", *paths]))
                self.units = dict(zip(self.collection, starts, strict=True))
            return self.units[nodeid]

    config.option.loadscopereorder = False
    return Neighbours(config, log)
