"""Nothing from outside is run: no unpickling, no eval, no shell; foreign files are read, or refused in a sentence."""

import ast
import json
import os
import pickle
import zipfile
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from lightning_losses.calibrators import TemperatureScaling
from lightning_losses.calibrators.base import Calibrator
from lightning_losses.checkpoints.atomic_checkpoints import AtomicCheckpoints
from lightning_losses.checkpoints.resumption import check_resumption
from lightning_losses.data.image_data import ImageDataset
from lightning_losses.diagnostics.numerics import replay
from lightning_losses.environment.file_digests import digest_place
from lightning_losses.experiments.config.check_config import ConfigError
from lightning_losses.experiments.config.check_overrides import check_links
from lightning_losses.experiments.kinds.logits_file import read_logits
from lightning_losses.experiments.kinds.logits_source import checkpoint_split
from lightning_losses.experiments.training.kept_networks import WEIGHTS, KeptNetworks
from lightning_losses.networks import timm_network
from lightning_losses.networks.weights import read_weights
from lightning_losses.teachers import CachedLogits, checkpoint_teacher, load_cached_teacher
from lightning_losses.teachers.cache_teacher import cache_teacher

ROOT = Path(__file__).parents[2]
SOURCES = [
    file for part in ("lightning_losses", "recipes", "benchmarks") for file in sorted((ROOT / part).rglob("*.py"))
]

# Calls that run what a text or a file says, and the keyword that makes them safe.
FORBIDDEN = {
    "eval": None, "exec": None, "compile": None, "__import__": None, "os.system": None, "os.popen": None,
    "os.execv": None, "os.spawnv": None, "pickle.load": None, "pickle.loads": None, "pickle.Unpickler": None,
    "joblib.load": None, "marshal.loads": None, "shelve.open": None, "dill.load": None, "yaml.load": None,
    "yaml.unsafe_load": None, "torch.jit.load": None, "torch.hub.load": None, "subprocess.getoutput": None,
    "torch.load": ("weights_only", True), "np.load": ("allow_pickle", False), "numpy.load": ("allow_pickle", False),
}  # fmt: skip

# The parts of a checkpoint that Lightning reads, of no training.
WHOLE = {
    "epoch": 1, "global_step": 2, "loops": {"fit_loop": {}}, "optimizer_states": [], "lr_schedulers": [],
}  # fmt: skip


class Malicious:
    """Unpickled, it makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def trace(tmp_path):
    """What an attack would leave, and must not."""
    yield tmp_path / "attacked"
    assert not (tmp_path / "attacked").exists()


def dotted(node):
    if isinstance(node, ast.Name):
        return node.id
    return f"{dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else "?"


def unsafe_calls(text):
    """The calls in a source that run what a text or a file says."""
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call):
            continue
        name, given = dotted(node.func), {word.arg: word.value for word in node.keywords}
        if name in FORBIDDEN:
            safe = FORBIDDEN[name]
            value = given.get(safe[0]) if safe else None
            if not (isinstance(value, ast.Constant) and value.value is safe[1]):
                yield name
        shell = given.get("shell")
        if shell is not None and not (isinstance(shell, ast.Constant) and shell.value is False):
            yield f"{name}(shell=...)"
        if name.startswith("subprocess.") and node.args and isinstance(node.args[0], ast.Constant | ast.JoinedStr):
            yield f"{name} of a text"
        if name.endswith("load_from_checkpoint"):
            yield name


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_source_runs_what_a_text_or_a_file_says(file):
    assert list(unsafe_calls(file.read_text())) == []


@pytest.mark.parametrize(
    "text",
    [
        "eval(x)", "exec(x)", "os.system('ls')", "pickle.load(f)", "torch.load(p)", "torch.load(p, weights_only=False)",
        "np.load(p)", "np.load(p, allow_pickle=True)", "subprocess.run(c, shell=True)", "subprocess.run('ls')",
        "subprocess.run(f'ls {x}')", "Module.load_from_checkpoint(p)", "torch.load(p, weights_only=w)",
    ],
)  # fmt: skip
def test_the_search_would_find_it(text):
    assert len(list(unsafe_calls(text))) == 1


def test_the_attack_works_where_files_are_unpickled(tmp_path):
    with pytest.raises(Exception):  # noqa: B017 - the made folder is no state dict, whatever else happens
        nn.Linear(1, 1).load_state_dict(pickle.loads(pickle.dumps(Malicious(tmp_path / "made"))))
    assert (tmp_path / "made").is_dir()


def test_no_reader_of_checkpoints_unpickles(tmp_path, trace):
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": {"network.weight": torch.zeros(1)}, "payload": Malicious(trace)}, path)
    for read in (
        lambda: read_weights(path),
        lambda: checkpoint_teacher(path, nn.Linear(3, 2)),
        lambda: CachedLogits.load(path),
        lambda: AtomicCheckpoints().load_checkpoint(path),
        lambda: AtomicCheckpoints().load_checkpoint(path, weights_only=False),
        lambda: Calibrator.load(path),
        lambda: TemperatureScaling.load(path),
        lambda: replay(path, nn.Linear(3, 2)),
        lambda: timm_network("test_resnet", 2, checkpoint_path=str(path)),
    ):
        with pytest.raises(ValueError) as found:
            read()
        assert "\n" not in str(found.value)
        assert not trace.exists()


def test_no_resumed_run_unpickles(tmp_path, trace, run):
    alone = ["modules.baseline=null", "trainer.max_epochs=1"]
    run(*alone, folder=tmp_path / "run")
    path = tmp_path / "run" / "checkpoints" / "student" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    torch.save({**content, "payload": Malicious(trace)}, path)
    path.with_name("last.ckpt.sha256").unlink()
    with pytest.raises(ValueError, match="was refused, because it holds Python objects"):
        run(*alone, f"resume={tmp_path / 'run'}", folder=tmp_path / "run")


@pytest.mark.parametrize("damage", [b"garbage", None])
def test_best_weights_that_were_changed_are_refused_before_the_run_goes_on(tmp_path, run, damage):
    alone = ["modules.baseline=null", "trainer.max_epochs=1", "weights=best"]
    run(*alone, folder=tmp_path / "run")
    best = tmp_path / "run" / "checkpoints" / "student" / "best.ckpt"
    if damage is None:
        content = torch.load(best, weights_only=True)
        torch.save({**content, "state_dict": {key: 0 * value for key, value in content["state_dict"].items()}}, best)
    else:
        best.write_bytes(damage)
    with pytest.raises(ValueError, match=r"best\.ckpt was changed"):
        run(*alone, f"resume={tmp_path / 'run'}", folder=tmp_path / "run")
    # What a rehearsal asks, before anything is written.
    last, identity = best.with_name("last.ckpt"), json.loads(best.with_name("identity.json").read_text())
    network = SimpleNamespace(state_dict=lambda: torch.load(last, weights_only=True)["state_dict"])
    with pytest.raises(
        ValueError, match=r"^resume: .*best\.ckpt was .* good state is .*last\.ckpt; put best\.ckpt back"
    ):
        check_resumption(best.parent, identity, network)


def test_best_weights_that_are_gone_are_told_before_the_run_goes_on(tmp_path):
    last, identity = tmp_path / "last.ckpt", {"weights": "best"}
    module = nn.Linear(1, 1)
    (tmp_path / "identity.json").write_text(json.dumps(identity))
    for best in (None, 0.5):
        states = {"LastCheckpoint": {"best": best}}
        content = {**WHOLE, "state_dict": module.state_dict(), "callbacks": states}
        AtomicCheckpoints().save_checkpoint(content, last)
        # Before the first epoch's end there is none yet.
        with (
            nullcontext() if best is None else pytest.raises(ValueError, match=r"^resume: .*best\.ckpt is missing, and")
        ):
            check_resumption(tmp_path, identity, module)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: [1], "is no checkpoint of a training: it holds a list in place of a table"),
        (lambda content: torch.zeros(2), "it holds a Tensor in place of a table"),
        (lambda content: {**content, "state_dict": [1]}, "its state_dict is a list, and a table was expected"),
        (lambda content: {**content, "state_dict": {"weight": 1}}, "weight in its state_dict is a int, and a tensor"),
        (lambda content: {**content, "callbacks": [1]}, "its callbacks is a list, and a table was expected"),
        (lambda content: {name: value for name, value in content.items() if name != "loops"}, "its loops is missing"),
        (lambda content: {**content, "loops": {}}, "its loops have no table of the fit_loop"),
        (lambda content: {**content, "epoch": "x"}, "its epoch is 'x', and a whole number was expected"),
        (lambda content: {**content, "global_step": None}, "its global_step is None, and a whole number"),
        (lambda content: {**content, "lr_schedulers": [1]}, "its lr_schedulers are no tables"),
        (lambda content: {**content, "optimizer_states": [{}]}, "its optimizer_states have no state and param_groups"),
        (
            lambda content: {**content, "optimizer_states": [{"state": {0: 1}, "param_groups": []}]},
            "have parameters without a table",
        ),
        (
            lambda content: {
                **content,
                "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(7)}}, "param_groups": []}],
            },
            r"holds another optimizer's state: exp_avg of its parameter 0 is \[7\], and no parameter here is",
        ),
        (b"\x80\x02\x55", "is no whole checkpoint"),
    ],
)
def test_a_checkpoint_of_another_form_is_refused_in_a_sentence(tmp_path, change, message):
    last, module = tmp_path / "last.ckpt", nn.Linear(1, 1)
    (tmp_path / "identity.json").write_text("{}")
    content = {**WHOLE, "state_dict": module.state_dict()}
    AtomicCheckpoints().save_checkpoint(content, last)
    check_resumption(tmp_path, {}, module)
    if isinstance(change, bytes):
        last.write_bytes(change)
        digest_place(last).unlink()
    else:
        AtomicCheckpoints().save_checkpoint(change(content), last)
    with pytest.raises(ValueError, match=rf"^resume: checkpoint: .*last\.ckpt .*{message}.*There is no other") as found:
        check_resumption(tmp_path, {}, module)
    assert "\n" not in str(found.value)


def test_settings_that_can_not_be_read_are_refused_in_a_sentence(tmp_path):
    last, kept = tmp_path / "last.ckpt", tmp_path / "identity.json"
    AtomicCheckpoints().save_checkpoint({**WHOLE, "state_dict": {}}, last)
    for make, message in (
        (lambda: kept.write_text("[" * 100_000), "maximum recursion depth"),
        (lambda: (kept.unlink(), os.mkfifo(kept)), "it is no plain file"),
    ):
        make()
        with pytest.raises(ValueError, match=rf"identity\.json, .* can't be read \(.*{message}.*good state is .*last"):
            check_resumption(tmp_path, {}, nn.Identity())
    with pytest.raises(ConfigError, match=r"identity\.json is no plain file; remove it"):
        check_links(tmp_path)


def test_links_lead_nowhere_but_below_the_folder_of_wandb(tmp_path):
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    (run / "wandb" / "offline-run-1").mkdir(parents=True)
    elsewhere.mkdir()
    # As W&B links its own log.
    (run / "wandb" / "offline-run-1" / "debug-core.log").symlink_to(elsewhere)
    check_links(run)
    (run / "report").symlink_to(elsewhere)
    with pytest.raises(ConfigError, match="report is a link to .*elsewhere, outside of the run's folder"):
        check_links(run)
    (run / "report").unlink()
    (run / "wandb").rename(run / "other")
    (run / "wandb").symlink_to(elsewhere)
    with pytest.raises(ConfigError, match="is a link to"):
        check_links(run)


def test_no_arrays_are_unpickled(tmp_path, trace):
    objects = np.empty(2, dtype=object)
    objects[:] = [Malicious(trace), Malicious(trace)]
    np.savez(tmp_path / "val.npz", logits=objects, target=np.zeros(2))
    with pytest.raises(ValueError, match=r"can't be read: Object arrays cannot be loaded") as found:
        read_logits(tmp_path / "val.npz")
    assert "\n" not in str(found.value)
    (tmp_path / "raw.npz").write_bytes(pickle.dumps(Malicious(trace)))
    with pytest.raises(ValueError, match="can't be read"):
        read_logits(tmp_path / "raw.npz")
    with zipfile.ZipFile(tmp_path / "member.npz", "w") as file:
        file.writestr("logits.npy", pickle.dumps(Malicious(trace)))
        file.writestr("target.npy", pickle.dumps(Malicious(trace)))
    with pytest.raises(ValueError, match="holds values that are not numbers"):
        read_logits(tmp_path / "member.npz")


def test_a_teachers_cache_with_objects_is_refused(tmp_path, trace):
    data = ImageDataset(torch.randn(4, 1, 2, 2), torch.zeros(4, dtype=torch.long))
    path = cache_teacher(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), data, tmp_path)
    objects = np.empty(4, dtype=object)
    objects[:] = Malicious(trace)
    np.save(path / "logits.npy", objects)
    for verify in (True, False):
        with pytest.raises(ValueError):
            load_cached_teacher(path, verify=verify)


def test_a_kept_network_with_objects_is_not_used(tmp_path, trace):
    kept = KeptNetworks(tmp_path / "kept")
    kept.save({"seed": 0}, nn.Linear(2, 2), {})
    (kept.place({"seed": 0}) / WEIGHTS).write_bytes(pickle.dumps(Malicious(trace)))
    assert kept.load({"seed": 0}, nn.Linear(2, 2)) is None


@pytest.mark.parametrize(
    "target",
    ["os.system", "torch.nn.functional.importlib.import_module", "timm.models._helpers.torch.load",
     "lightning_losses.experiments.launch.os.system"],
)  # fmt: skip
def test_settings_beside_a_checkpoint_build_no_more_than_a_configuration(tmp_path, target):
    (tmp_path / "last.ckpt").write_bytes(b"")
    settings = {"data": {"_target_": "lightning_losses.data.Digits"}, "module": {"network": {"_target_": target}}}
    (tmp_path / "identity.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="may not build this"):
        checkpoint_split(tmp_path / "last.ckpt")
    (tmp_path / "identity.json").write_text("{")
    with pytest.raises(ValueError, match="is not what a run leaves"):
        checkpoint_split(tmp_path / "last.ckpt")
