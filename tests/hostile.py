"""Folders, configurations and files made to harm, each refused: python -m tests.hostile prints how many.

No harm is in any of them: what an attack would do is to make a folder, the mark, or to write to a file, the victim.
Each is given to the command in this process; it must end in one sentence that tells why, without the mark, and leave
the folder that it came in as it was.
"""

import contextlib
import copy
import io
import json
import os
import pickle
import re
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from lightning_losses.environment.file_digests import digest_place, file_digest
from lightning_losses.experiments import launch as launching
from lightning_losses.experiments.config import check_overrides as checking
from lightning_losses.experiments.config.check_overrides import check_overrides
from lightning_losses.experiments.launch import launch

SETTINGS = [
    "experiment=classify", "data=digits", "model.width=2", "model.depth=1", "scheduler=none", "logger=none",
    "trainer.max_epochs=1", "trainer.limit_train_batches=1", "trainer.enable_progress_bar=false",
]  # fmt: skip


class Payload:
    """Unpickled, it makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@dataclass
class Attack:
    """What is given to a command, and what has to be said of it."""

    recipe: str
    words: list[str]
    folder: Path
    message: str


def run_once(home: Path) -> Path:
    """A run that came to its end."""
    folder = home / "run"
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        launch("train", [*SETTINGS, f"hydra.run.dir={folder}"], "train")
    # They are many, and no attack reads them.
    shutil.rmtree(folder / "report")
    return folder


def attacks(home: Path, run: Path) -> dict[str, Attack]:
    """All of them, by name."""
    mark, victim = home / "mark", home / "victim"
    pickled = home / "payload.pickle"
    pickled.write_bytes(pickle.dumps(Payload(mark)))
    torch.save({"state_dict": {}, "payload": Payload(mark)}, home / "payload.pt")
    found: dict[str, Attack] = {}

    def resumed(name: str, message: str, change: Callable[[Path], object], *words: str) -> None:
        folder = home / f"resumed {len(found)}"
        shutil.copytree(run, folder, symlinks=True)
        change(folder)
        found[f"resumed: {name}"] = Attack("train", [f"resume={folder}", *words], folder, message)

    def file(name: str, text: str, message: str, group: str = "calibrator") -> None:
        folder = home / f"configurations {len(found)}"
        (folder / group).mkdir(parents=True)
        (folder / group / "foreign.yaml").write_text(f"# @package _global_\n{text}\n")
        # The recipe of the fewest files.
        recipe, words = ("train", SETTINGS[1:]) if group == "experiment" else ("calibrate", [])
        found[f"file: {name}"] = Attack(recipe, [f"--config-dir={folder}", f"{group}=foreign", *words], folder, message)

    mkdir = f"{{_target_:os.mkdir,path:{mark}}}"
    for line, message in {
        f"--experimental-rerun={pickled}": "is no override, key=value",
        f"--config-dir={home}": "is no override, key=value",
        "-m": "is no override, key=value",
        "--multirun": "is no override, key=value",
        f"-cd={home}": "is no override, key=value|not for the folder",
        "allowed_targets=[os]": "line 1: allowed_targets=.os. reaches out of the run's folder",
        "+allowed_targets=[os.mkdir]": "line 1: .*allowed_targets=.os.mkdir. reaches out",
        "++allowed_targets=[os]": "line 1: .*allowed_targets=.os. reaches out",
        "~allowed_targets": "line 1: ~allowed_targets reaches out",
        "++allowed_targets.0=os": "line 1: .*allowed_targets.0=os reaches out",
        "allowed_targets=${data.classes}": "line 1: allowed_targets=.* reaches out",
        "objective@allowed_targets=ce": "may not come from a run's folder",
        "+callbacks.x={_target_:os.mkdir,path:mark}": "reaches out of the run's folder",
        "+callbacks.x={_target_:os.mkdir,name:mark}": "callbacks.x._target_=os.mkdir: a configuration may not build",
        f"+callbacks.x={mkdir}": "reaches out of the run's folder",
        "+data.more=[[{_target_:os.mkdir}]]": r"data\.more\[0\]\[0\]\._target_=os\.mkdir: a config",
        "+model.x={_target_:torch.load,f:payload.pickle}": "_target_=torch.load: a configuration may not build",
        "+x={_target_:functools.partial}": "there is no 'x' in the configuration",
        "+data.x={_target_:functools.partial,_args_:[{_target_:os.mkdir}]}": "a configuration may not build",
        "+model.x={_target_:hydra.utils.get_method,path:os.mkdir}": "a configuration may not build|reaches out",
        "experiment._target_=os.system": "os.system: a configuration may not build",
        "optimizer._target_=builtins.eval": "builtins.eval: a configuration may not build",
        "model._target_=lightning_losses.networks.weights.read_weights": "a configuration may not build",
        "hydra.run.dir=elsewhere": "may not come from a run's folder",
        "hydra.output_subdir=../../elsewhere": "may not come from a run's folder",
        "hydra.output_subdir=null": "may not come from a run's folder",
        "hydra/job_logging=foreign": "may not come from a run's folder",
        f"+hydra.callbacks.x={mkdir}": "may not come from a run's folder",
        "+hydra.job.env_set.CXX=cc": "may not come from a run's folder",
        "hydra.searchpath=[pkg://foreign]": "may not come from a run's folder",
        "++hydra.job_logging.handlers.x={class:logging.os.mkdir}": "may not come from a run's folder",
        "objective@hydra.launcher=ce": "may not come from a run's folder",
        "objective@_global_=ce": "may not come from a run's folder",
        "objective@_global_.hydra.launcher=ce": "may not come from a run's folder",
        "objective@supervised._global_=ce": "may not come from a run's folder",
        "objective@resume.x=ce": "may not come from a run's folder",
        "seed=${oc.env:UID}": "reaches out of the run's folder",
        "+data.x='${oc.create:{_target_:os.mkdir}}'": "reaches out of the run's folder",
        "seed=1,2": "may not come from a run's folder",
        f"cache={home}": "reaches out of the run's folder",
        "cache=elsewhere": "reaches out of the run's folder",
        f"teacher_weights={home / 'payload.pt'}": "reaches out of the run's folder",
        "+callbacks.x={_target_:lightning_losses.callbacks.MetricsFile,path:'~/victim'}": "reaches out of the run's",
        "+callbacks.x={_target_:lightning_losses.callbacks.MetricsFile,path:victim}": "reaches out of the run's",
        "+model.weights=../../payload.pt": "reaches out of the run's folder",
        "+logger={_target_:lightning.pytorch.loggers.CSVLogger,save_dir:/}": "reaches out of the run's folder",
        "logger.offline=false": "logger.offline=false reaches out of the run's folder",
        "++logger.offline='no'": "reaches out of the run's folder",
        "++logger.entity=stranger": "reaches out of the run's folder",
        "+logger.settings={api_key:x,base_url:'https://stranger.example'}": "reaches out of the run's folder",
        "+logger.settings.base_url=stranger": "reaches out of the run's folder",
        "+logger.mode=online": "reaches out of the run's folder",
        "logger._target_=lightning.pytorch.loggers.WandbLogger": "reaches out of the run's folder",
        "+logger={_target_:lightning.pytorch.loggers.WandbLogger}": "reaches out of the run's folder",
        "+trainer.logger={_target_:lightning.pytorch.loggers.WandbLogger}": "reaches out of the run's folder",
        "logger@trainer.logger=wandb": "reaches out of the run's folder",
        "+callbacks.x={_target_:lightning.pytorch.callbacks.ModelCheckpoint,filename:'file:/x'}": "reaches out of the",
        "+callbacks.x={_target_:lightning.pytorch.callbacks.ModelCheckpoint,filename:'dir::/x'}": "reaches out of the",
        "+callbacks.x={_target_:lightning.pytorch.callbacks.ModelCheckpoint,filename:'$HOME/x'}": "reaches out of the",
    }.items():
        resumed(line, message, lambda folder, line=line: _write_lines(folder, line))
    resumed("a mapping", "an override is a text", lambda folder: _write(folder, "- {allowed_targets: [os]}"))
    resumed(
        "a tag of Python",
        "an override is a text",
        lambda folder: _write(folder, f"- !!python/object/apply:os.mkdir [{mark}]"),
    )
    resumed("no list", "is no list; write the run's overrides", lambda folder: _write(folder, "allowed_targets: [os]"))
    resumed(
        "no YAML",
        "can't be read .*; write the run's overrides.*; the last good state is .*last.ckpt",
        lambda folder: _write(folder, "- [1, 2"),
    )
    resumed("bytes", "can't be read", lambda folder: (folder / ".hydra" / "overrides.yaml").write_bytes(b"\xff\xfe\0"))
    resumed("nothing", "there is no run in that folder", lambda folder: shutil.rmtree(folder / ".hydra"))

    for part in (".hydra", "checkpoints", "checkpoints/student/last.ckpt", "metrics.jsonl"):
        resumed(
            f"{part} is a link",
            "is a link to .*, outside of the run's|no run in that folder",
            lambda f, part=part: _link(f, part, home),
        )

    for name, text in (("no JSON", b"{\n"), ("bytes", b"\xff\n"), ("no table", b"1\n")):
        resumed(
            f"metrics that are {name}",
            "metrics.jsonl, line 1: this is no line of metrics",
            lambda folder, text=text: (folder / "metrics.jsonl").write_bytes(text),
        )
    for word, message in (
        ("execution.blocks=[foo]", "execution.blocks: SmallCNN has no foo"),
        ("execution.compile=foo", "execution.compile: backend='foo' came"),
        ("optimized_metric=foo", "optimized_metric=foo: the run reports no such number"),
    ):
        # Mistakes of the user's, which change nothing in the folder either.
        resumed(word, message, lambda folder: None, word)

    resumed(
        "a wrong argument of a logger",
        "logger.foo: TensorBoardLogger takes no 'foo'",
        lambda folder: None,
        "logger=tensorboard",
        "+logger.foo=1",
    )
    for part in (".lock", "checkpoints/student/identity.json", "metrics.jsonl"):
        resumed(f"{part} is a pipe", f"{part} is no plain file; remove it", lambda f, part=part: _pipe(f / part))

    def of_checkpoint(name: str, message: str, change: Callable[[Path], object], *, digest: bool = True) -> None:
        def changed(folder: Path) -> None:
            last = folder / "checkpoints" / "student" / "last.ckpt"
            change(last)
            if not digest:
                digest_place(last).unlink()
            elif digest is not True:
                digest_place(last).write_text(file_digest(last))

        resumed(name, message, changed)

    of_checkpoint("another file", "last.ckpt was changed since it was written.*remove last.ckpt to", _put(home))
    of_checkpoint("one to unpickle", "holds Python objects that only unpickling", _put(home), digest=False)
    of_checkpoint("one, with its digest", "holds Python objects that only unpickling", _put(home), digest="new")
    of_checkpoint("half", "last.ckpt was changed since", lambda last: os.truncate(last, last.stat().st_size // 2))
    of_checkpoint(
        "half, without a digest",
        "is no whole checkpoint .*There is no other state of it",
        lambda last: os.truncate(last, last.stat().st_size // 2),
        digest=False,
    )
    of_checkpoint("empty", "is no whole checkpoint", lambda last: os.truncate(last, 0), digest=False)
    of_checkpoint("a changed byte", "last.ckpt was changed since it was written", _flip)
    of_checkpoint("another network's", "holds another network: its .* is ", _other_network, digest="new")
    for name, message, content in (
        ("a list", "it holds a list in place of a table", [1]),
        ("a table of one tensor", "its state_dict is missing", {"x": torch.zeros(1)}),
    ):
        of_checkpoint(name, message, lambda last, content=content: torch.save(content, last), digest="new")
    of_checkpoint("three bytes", "is no whole checkpoint", lambda last: last.write_bytes(b"\x80\x02\x55"), digest="new")
    for place in (
        f"local://{home / 'elsewhere'}",
        f"{home}/checkpoints/../elsewhere",
        "../elsewhere",
        "dir::/elsewhere",
    ):
        # As ModelCheckpoint keeps what it removes when a better one comes.
        of_checkpoint(
            f"one that removes {place.replace(str(home), '')}",
            "a callback would remove .*elsewhere, and a plain path without '..' was expected",
            lambda last, place=place: _remembers(last, place),
            digest="new",
        )
    of_checkpoint("shards to unpickle", "holds Python objects that only unpickling", _shards(mark), digest=False)
    settings = "identity.json, which holds the settings of the student, can't be read .*last good state is"
    for name, message, change in (
        ("no settings", settings, lambda last: _identity(last).unlink()),
        ("settings of garbage", settings, lambda last: _identity(last).write_text("{")),
        ("settings without an end", settings, lambda last: _identity(last).write_text("[" * 100_000)),
        ("settings of bytes", settings, lambda last: _identity(last).write_bytes(b"\xff\0")),
        ("settings as a list", settings, lambda last: _identity(last).write_text("[]")),
        ("other settings", r"begun with other settings \(seed\)", lambda last: _edit(_identity(last), seed=7)),
    ):
        of_checkpoint(name, message, change)

    may_not = "a configuration may not build this"
    nested = f"{{_target_: os.mkdir, path: {mark}}}"
    for name, text, message in (
        ("a target", f"calibrator: {nested}", may_not),
        ("a target in a list", f"x: {{more: [[{nested}]]}}", may_not),
        ("a target that is made", f"x: {{more: '${{oc.create:{nested}}}'}}", may_not),
        ("a target in pieces", "x: {a: os, b: mkdir}\ncalibrator: {_target_: '${x.a}.${x.b}'}", may_not),
        ("a target that is decoded", "x: os.mkdir\ncalibrator: {_target_: '${oc.decode:${x}}'}", may_not),
        ("what is resolved twice", "x: {more: '\\${oc.create:{_target_: os.mkdir}}'}", "could become anything"),
        ("an unknown resolver", "x: '${foreign:1}'", "Unsupported interpolation type foreign"),
        ("Hydra's own state", "x: '${hydra:job.num}'", "HydraConfig was not set"),
        ("a longer list", f"allowed_targets: [os]\nx: {nested}", f"{may_not}|only the command line may"),
        ("a tag of Python", f"x: !!python/object/apply:os.mkdir [{mark}]", "could not determine a constructor"),
        ("a module of its own", "calibrator: {_target_: foreign_module.Net}", may_not),
        ("a profiler", "x: {_target_: lightning.pytorch.profilers.SimpleProfiler, dirpath: /}", "may write only"),
        ("a server", "x: {_target_: lightning.pytorch.serve.ServableModuleValidator}", may_not),
        ("a handler", f"hydra: {{job_logging: {{handlers: {{x: {{(): os.mkdir, path: {mark}}}}}}}}}", may_not),
        ("a late handler", "hydra: {job_logging: {handlers: '${oc.create:{x: ${hydra:runtime.x}}}'}}",
         "its value is not known yet"),
        ("a log elsewhere", f"hydra: {{job_logging: {{handlers: {{file: {{filename: {victim}}}}}}}}}",
         "a log lies in the run's folder"),
        ("a log moved elsewhere",
         f"hydra: {{job_logging: {{handlers: {{file: {{'.': {{baseFilename: {victim}}}}}}}}}}}",
         r"handlers.file.\.: a file may not set this for logging"),
        ("a log's folder by separators",
         "hydra: {job: {config: {override_dirname: {item_sep: /../../..}}}, job_logging: {handlers: {file: "
         "{filename: '${hydra.runtime.output_dir}/${hydra.job.override_dirname}/victim'}}}}",
         "item_sep=/../../..: a folder's name would lead elsewhere by it"),
        ("a format that Python refuses", "hydra: {job_logging: {formatters: {simple: {format: echo}}}}",
         "formatters.simple: Python's logging refuses this"),
        ("the environment", "hydra: {job: {env_set: {CXX: foreign}}}", "a file may not set this"),
        ("a callback of Hydra's", f"hydra: {{callbacks: {{x: {nested}}}}}", may_not),
        ("a group elsewhere", "defaults: [{/objective@_global_: ce}]", "a file may not place a group there"),
        ("Hydra's folder", "hydra: {output_subdir: ../../elsewhere}", "leads out of the run's folder"),
    ):  # fmt: skip
        file(name, text, message)
    file("a loss as callback", "callbacks: {x: {_target_: lightning_losses.losses.KD}}", "it is no Call", "experiment")
    launcher = "defaults: [{override /hydra/launcher: submitit_local}]\nhydra: {launcher: {submitit_folder: /}}"
    file("a launcher's folder", launcher, "submitit_folder=/: this leads out of the sweep's folder", "experiment")
    file("a job's folder", "hydra: {sweep: {subdir: ../x}}", "subdir=../x: this leads out of", "experiment")
    for place in ("'${hydra.job.config_name}/../..'", "$HOME/x", "'${hydra.job.override_dirname}'"):
        sweep = f"hydra: {{sweep: {{subdir: {place}}}}}"
        file(f"a job's folder, {place}", sweep, "hydra.sweep.subdir=.*: this leads out of", "experiment")
        found[f"file: a job's folder, {place}"].words.append("cache=a/../../b")
    found["a file to unpickle as teacher"] = Attack(
        "train",
        ["data=digits", f"teacher_weights={home / 'payload.pt'}"],
        home / "none",
        "was refused, because it holds Python objects",
    )
    found["a configuration to unpickle"] = Attack(
        "train", [f"--experimental-rerun={pickled}"], home / "none", "the file would be unpickled"
    )

    def beside(name: str, message: str, **settings: object) -> None:
        folder = home / f"checkpoint {len(found)}"
        shutil.copytree(run / "checkpoints" / "student", folder)
        _edit(folder / "identity.json", **settings)
        found[f"beside a checkpoint: {name}"] = Attack(
            "calibrate", [f"checkpoint='{folder}/last.ckpt'"], folder, message
        )

    target = {"_target_": "os.mkdir", "path": str(mark)}
    digits = {"_target_": "lightning_losses.data.Digits"}
    beside("a target", may_not, data=target)
    beside("a target within", may_not, module={"network": {"_target_": "torch.nn.Sequential", "_args_": [target]}})
    beside("a target that is made", "could become anything", data={**digits, "x": f"${{oc.create:{nested}}}"})
    beside("a resolver", "could become anything", data={**digits, "seed": "${foreign:1}"})
    beside("the environment", "could become anything", data={**digits, "seed": "${oc.env:UID}"})

    objects = np.empty(2, dtype=object)
    objects[:] = [Payload(mark), Payload(mark)]
    np.savez(home / "objects.npz", logits=objects, target=np.zeros(2))
    (home / "raw.npz").write_bytes(pickled.read_bytes())
    (home / "raw.safetensors").write_bytes(pickled.read_bytes())
    for name in ("objects.npz", "raw.npz", "raw.safetensors"):
        found[f"logits: {name}"] = Attack("calibrate", [f"logits={home / name}"], home / "none", "can't be read")
    return found


def outcome(attack: Attack, home: Path) -> str | None:
    """What went wrong, if the attack was not refused as it has to be."""
    before, told = contents(attack.folder), io.StringIO()
    try:
        with contextlib.redirect_stderr(told), contextlib.redirect_stdout(told), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            launch(
                attack.recipe, [*attack.words, *(f"output={home / 'outputs'}",) * (attack.recipe != "train")], "train"
            )
        return "it was done"
    except SystemExit as left:
        if left.code != 2:
            return f"left with {left.code}: {told.getvalue()[-300:]}"
    lines = told.getvalue().replace("\n(debug=true shows where it was raised.)", "").strip().splitlines()
    if len(lines) != 1 or not lines[0].startswith("Error: ") or not re.search(attack.message, lines[0]):
        return f"said: {told.getvalue()[:500]}"
    if (home / "mark").exists() or (home / "victim").read_text() != "mine" or list((home / "elsewhere").iterdir()):
        return "the attack succeeded"
    return None if contents(attack.folder) == before else "the folder was changed"


def composed_once() -> Callable[..., Any]:
    """`check_overrides`, which composes the same words, but for the folder that is resumed, once."""
    remembered: dict[tuple[str, ...], Any] = {}

    def check(name: str, words: list[str], *rest: Any, **options: Any) -> Any:
        own = [word for word in words if word.startswith(("resume=", "hydra.run.dir="))]
        key = (name, *(word for word in words if word not in own), str(options))
        if key not in remembered or not own:
            remembered[key] = check_overrides(name, words, *rest, **options)
        configs = copy.deepcopy(remembered[key])
        for config in configs:
            for word in own[:1]:
                config.resume = word.removeprefix("resume=").strip("'")
        return configs

    return check


def keys_known_once(check_keys: Callable[..., None]) -> Callable[..., None]:
    """`_check_keys`, which composes the parts that are chosen, before any value is set, once."""
    compose, remembered = checking._compose, {}

    def composed(name: str, lines: list[str]) -> Any:
        key = (name, *lines)
        if key not in remembered:
            remembered[key] = compose(name, lines)
        return remembered[key]

    def check(*arguments: Any) -> None:
        with mock.patch.object(checking, "_compose", composed):
            check_keys(*arguments)

    return check


def contents(folder: Path) -> dict[str, bytes | str]:
    """All files of a folder."""
    return {
        str(path.relative_to(folder)): str(path.readlink()) if path.is_symlink() else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def run(home: Path) -> tuple[int, dict[str, str]]:
    """How many attacks there are, and those that were not refused."""
    home = home.resolve()
    (home / "victim").write_text("mine")
    (home / "elsewhere").mkdir()
    made = attacks(home, run_once(home))
    # As a script's own folder would be.
    (home / "foreign_module.py").write_text(f"import os\nos.mkdir({str(home / 'mark')!r})\n")
    sys.path.insert(0, str(home))
    try:
        with (
            mock.patch.object(launching, "check_overrides", composed_once()),
            mock.patch.object(checking, "_check_keys", keys_known_once(checking._check_keys)),
        ):
            results = {name: outcome(attack, home) for name, attack in made.items()}
    finally:
        sys.path.remove(str(home))
    return len(made), {name: wrong for name, wrong in results.items() if wrong is not None}


def main() -> int:
    """Print how many attacks were refused."""
    torch.set_num_threads(1)
    started, here = time.perf_counter(), Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        count, wrong = run(Path(folder))
        os.chdir(here)
    seconds = time.perf_counter() - started
    print(f"{count} hostile folders, configurations and files: {count - len(wrong)} refused; {seconds:.0f} s")
    for name, what in wrong.items():
        print(f"  {name}: {what}")
    return 1 if wrong else 0


def _write(folder: Path, text: str) -> None:
    (folder / ".hydra" / "overrides.yaml").write_text(text)


def _write_lines(folder: Path, line: str) -> None:
    _write(folder, "".join(f"- {json.dumps(text)}\n" for text in (line, *SETTINGS)))


def _link(folder: Path, part: str, home: Path) -> None:
    place, goal = folder / part, home / "victim"
    if place.is_dir():
        shutil.rmtree(place)
        goal = home / "elsewhere"
    else:
        place.unlink()
    place.symlink_to(goal)


def _pipe(place: Path) -> None:
    place.unlink(missing_ok=True)
    os.mkfifo(place)


def _put(home: Path) -> Callable[[Path], object]:
    return lambda last: shutil.copy(home / "payload.pt", last)


def _flip(last: Path) -> None:
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(content)


def _other_network(last: Path) -> None:
    content = torch.load(last, weights_only=True)
    content["state_dict"] = {name: value[..., :1] for name, value in content["state_dict"].items()}
    torch.save(content, last)


def _remembers(last: Path, place: str) -> None:
    content = torch.load(last, weights_only=True)
    content["callbacks"]["ModelCheckpoint"] = {"best_k_models": {place: torch.zeros(())}, "best_model_path": ""}
    torch.save(content, last)


def _shards(mark: Path) -> Callable[[Path], object]:
    def make(last: Path) -> None:
        last.unlink()
        last.mkdir()
        (last / ".metadata").write_bytes(pickle.dumps(Payload(mark)))

    return make


def _identity(last: Path) -> Path:
    return last.with_name("identity.json")


def _edit(identity: Path, **settings: object) -> None:
    identity.write_text(json.dumps({**json.loads(identity.read_text()), **settings}))


if __name__ == "__main__":
    sys.exit(main())
