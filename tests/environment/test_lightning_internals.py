"""The private parts of Lightning: one file names them, and the installed version has them."""

import ast
import importlib
import inspect
import textwrap
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.fabric.strategies.launchers import subprocess_script
from lightning.fabric.utilities import load
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.loops import loop
from lightning.pytorch.strategies import ModelParallelStrategy, launchers

PACKAGE = Path(__file__).parents[2] / "lightning_losses"
FILE = PACKAGE / "environment" / "lightning_internals.py"
OBJECTS = {"trainer", "pl_module", "lightning_module", "strategy", "launcher", "fit_loop", "epoch_loop", "L"}
# What the file names, and what is read of the records that it gives, from objects that anybody gets.
USED = {
    "module": ["_trainer", "_current_fx_name", "_on_before_batch_transfer", "_device_mesh", "_device", "_hparams",
        "_hparams_initial",
    ],
    "trainer": [
        "fit_loop.epoch_loop._batches_that_stepped", "fit_loop.epoch_loop._results", "fit_loop.advance", "_results",
        "fit_loop._should_accumulate", "fit_loop.load_state_dict", "fit_loop.epoch_progress.current.processed",
        "fit_loop.epoch_loop.val_loop.setup_data",
        "fit_loop.epoch_loop.manual_optimization.optim_step_progress.increment_ready", "fit_loop.on_advance_end",
        "_signal_connector.received_sigterm", "_signal_connector._original_handlers",
        "_accelerator_connector.cluster_environment", "_active_loop",
    ],
    "logged": [
        "value", "cumulated_batch_size", "has_reset", "is_tensor", "meta.on_epoch", "meta.is_max_reduction",
        "meta.is_min_reduction", "meta.reduce_fx", "meta.fx", "meta.name",
    ],
    "strategy": [
        "_data_parallel_size", "_tensor_parallel_size", "_process_group_backend", "_save_distributed_checkpoint",
    ],
    "bar": ["_get_train_description"],
    "observer": ["_child_processes"],
    "lightning.pytorch.strategies.launchers": ["_MultiProcessingLauncher"],
    "lightning.fabric.strategies.launchers.subprocess_script": ["_ChildProcessObserver"],
    "lightning.pytorch.loops.loop": ["_Loop.restarting.fset"],
    "lightning.fabric.utilities.load": ["_load_distributed_checkpoint"],
}  # fmt: skip


def objects():
    trainer = L.Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, barebones=True)
    results = trainer.fit_loop.epoch_loop._results
    results.log("training_step", "loss", torch.ones(()), on_step=False, on_epoch=True, batch_size=1)
    module = L.LightningModule()
    module.save_hyperparameters({"width": 2})
    return {
        "module": module,
        "trainer": trainer,
        "logged": next(iter(results.values())),
        "strategy": ModelParallelStrategy(),
        "bar": RichProgressBar(),
        "observer": subprocess_script._ChildProcessObserver(main_pid=0, child_processes=[]),
        **{module.__name__: module for module in (launchers, subprocess_script, loop, load)},
    }


def lacking(thing, path):
    """What a path of attributes misses, as one sentence; empty if nothing."""
    for name in path.split("."):
        if not hasattr(thing, name):
            of = getattr(thing, "__name__", type(thing).__name__)
            return f"lightning {L.__version__} has no {name} of {of}, which {FILE.name} takes: say there what does now."
        thing = getattr(thing, name)
    return ""


def private(name):
    return name.startswith("_") and not name.startswith("__") and name.isidentifier()


def named(source):
    """The private names that a file spells, in code, in imports and as strings."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            yield node.attr, node
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((alias.name.rpartition(".")[2], node) for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value, node


KNOWN = {name for name, _ in named(FILE.read_text()) if private(name)}


def uses(source):
    """Where a file names what is Lightning's own."""
    for name, node in named(source):
        of_lightning = isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "lightning"
        if isinstance(node, ast.Attribute):
            parts = {getattr(part, "id", getattr(part, "attr", "")) for part in ast.walk(node.value)}
            of_lightning = bool(parts & OBJECTS)
        if private(name) and (name in KNOWN or of_lightning):
            yield f"line {node.lineno}: {name}"


def own_names(kind):
    """The private attributes and methods that a class itself names."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
            yield node.attr
        elif isinstance(node, ast.FunctionDef):
            yield node.name


def shared_names(kind):
    """The private names that a class has in common with the classes of Lightning that it is made of."""
    bases = [base for base in kind.__mro__ if base.__module__.split(".")[0] == "lightning"]
    theirs = {name for base in bases for name in own_names(base) if private(name)}
    return {name for name in own_names(kind) if private(name)} & theirs


@pytest.mark.parametrize(("of", "path"), [(of, path) for of, paths in USED.items() for path in paths])
def test_the_installed_lightning_has_it(of, path):
    assert not lacking(objects()[of], path)


def test_what_is_lacking_is_named_with_the_version():
    sentence = lacking(objects()["trainer"], "_signal_connector._gone")
    assert sentence.startswith(f"lightning {L.__version__} has no _gone of _SignalConnector, which lightning_internals")


def test_all_that_the_file_names_is_asked_for():
    assert {part for paths in USED.values() for path in paths for part in path.split(".") if private(part)} == KNOWN


def test_no_other_file_names_private_parts_of_lightning():
    files = [file for file in PACKAGE.rglob("*.py") if file != FILE]
    assert {str(file): found for file in files if (found := list(uses(file.read_text())))} == {}
    for source in (
        "trainer._checkpoint_connector.restore()",
        "self.trainer.fit_loop._data_source",
        "getattr(module, '_trainer')",
        "from lightning.pytorch.loops.fit_loop import _FitLoop",
        "module._current_fx_name = 'training_step'",
    ):
        assert list(uses(source)), source


def test_no_class_shares_private_names_with_lightnings():
    for file in sorted(PACKAGE.rglob("*.py")):
        if not any(isinstance(node, ast.ClassDef) and node.bases for node in ast.walk(ast.parse(file.read_text()))):
            continue
        module = importlib.import_module(".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts))
        for kind in vars(module).values():
            if inspect.isclass(kind) and kind.__module__ == module.__name__:
                assert not shared_names(kind), kind

    class Reaching(ModelParallelStrategy):
        def setup_environment(self):
            self._data_parallel_size = 1

    assert shared_names(Reaching) == {"_data_parallel_size"}
