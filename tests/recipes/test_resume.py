import json
import os
import re
import shlex

import pytest
import torch

from lightning_losses.checkpoints.atomic_checkpoints import AtomicCheckpoints
from lightning_losses.checkpoints.resumption import begin
from lightning_losses.environment.file_digests import check_digest, digest_place
from lightning_losses.experiments.config.check_overrides import saved_overrides, to_repeat
from lightning_losses.experiments.launch import launch
from tests.hostile import SETTINGS, contents
from tests.recipes.conftest import student_weights

ALONE = ["modules.baseline=null", "trainer.max_epochs=3"]


@pytest.mark.parametrize(("objective", "step"), [("nkd", 0), ("nkd", 4), ("nkd", 6), ("uskd", 8), ("pskd", 5)])
def test_a_resumed_run_ends_where_an_uninterrupted_one_ends(run, interrupt, tmp_path, objective, step):
    whole = run(*ALONE, f"objective={objective}", folder=tmp_path / "whole")
    interrupt(step)
    folder = tmp_path / "interrupted"
    with pytest.raises(KeyboardInterrupt):
        run(*ALONE, f"objective={objective}", folder=folder)
    # The last whole epoch is there, and is a checkpoint that can be read.
    assert student_weights(folder)["global_step"] == step - step % 3
    resumed = run(*ALONE, f"objective={objective}", f"resume={folder}", folder=folder)
    for name, value in student_weights(tmp_path / "whole")["state_dict"].items():
        assert torch.equal(value, student_weights(folder)["state_dict"][name]), name
    assert resumed.evaluations[-1].trained.history == whole.evaluations[-1].trained.history
    assert torch.equal(resumed.evaluations[-1].logits, whole.evaluations[-1].logits)


def test_a_run_with_dropout_resumes_exactly(run, interrupt, tmp_path):
    dropout = ["model=vit_tiny", "+model.proj_drop_rate=0.3", "model.embed_dim=16", "model.depth=1"]
    short = ["data=digits", "trainer.limit_train_batches=3", "trainer.enable_progress_bar=false", "teacher.width=8"]
    run(*ALONE, *dropout, folder=tmp_path / "whole", short=short)
    interrupt(4)
    with pytest.raises(KeyboardInterrupt):
        run(*ALONE, *dropout, folder=tmp_path / "interrupted", short=short)
    run(*ALONE, *dropout, f"resume={tmp_path / 'interrupted'}", folder=tmp_path / "interrupted", short=short)
    for name, value in student_weights(tmp_path / "whole")["state_dict"].items():
        assert torch.equal(value, student_weights(tmp_path / "interrupted")["state_dict"][name]), name


def test_an_interrupted_teacher_is_resumed_too(run, interrupt, tmp_path):
    whole = run(*ALONE, f"cache={tmp_path / 'one'}", folder=tmp_path / "whole")
    interrupt(4, teacher=True)
    folder = tmp_path / "interrupted"
    with pytest.raises(KeyboardInterrupt):
        run(*ALONE, f"cache={tmp_path / 'two'}", folder=folder)
    assert not (tmp_path / "two").exists() and not (folder / "checkpoints" / "student").exists()
    resumed = run(*ALONE, f"cache={tmp_path / 'two'}", f"resume={folder}", folder=folder)
    for before, after in zip(whole.evaluations, resumed.evaluations, strict=True):
        assert not after.trained.kept and torch.equal(before.logits, after.logits)


def test_resuming_with_other_settings_is_refused(run, interrupt, tmp_path):
    interrupt(4)
    with pytest.raises(KeyboardInterrupt):
        run(*ALONE)
    with pytest.raises(ValueError, match=r"begun with other settings .*module\.optimizer\.lr"):
        run(*ALONE, "optimizer.lr=0.5", f"resume={tmp_path}")


@pytest.mark.parametrize(
    ("now", "message"),
    [
        (
            {"source": "b"},
            "was begun by another version of the library's code, and its result would be that of neither version; "
            "continue with the version that began it, or start a new run.",
        ),
        (
            {"source": "b", "torch": "2.9"},
            "was begun by another version of the library's code and of torch (2.8 then, 2.9 now), and its result "
            "would be that of neither version; continue with the version that began it, or start a new run.",
        ),
        (
            {"source": "b", "lr": 1},
            "was begun with other settings (lr); resume with the settings of that run, or start a new one.",
        ),
    ],
    ids=["code", "code and torch", "a setting, and code by it"],
)
def test_a_change_of_code_is_told_as_one(tmp_path, now, message):
    def identity(source="a", torch="2.8", lr=0):
        return {"lr": lr, "versions": {"source": source, "torch": torch}}

    folder = tmp_path / "student"
    begin(folder, identity(), resume=False)
    (folder / "last.ckpt").write_bytes(b"")
    with pytest.raises(ValueError) as refused:
        begin(folder, identity(**now), resume=True)
    assert str(refused.value) == f"resume: the student in {folder} {message}"


def test_a_checkpoint_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    checkpoints, path = AtomicCheckpoints(), tmp_path / "folder" / "last.ckpt"
    checkpoints.save_checkpoint({"step": 1}, path)

    def torn(content, stream):
        stream.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", torn)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save_checkpoint({"step": 2}, path)
    assert checkpoints.load_checkpoint(path) == {"step": 1}


def test_a_checkpoint_with_objects_is_refused(tmp_path):
    torch.save({"objects": AtomicCheckpoints()}, tmp_path / "foreign.ckpt")
    with pytest.raises(Exception, match="Weights only load failed"):
        AtomicCheckpoints().load_checkpoint(tmp_path / "foreign.ckpt", weights_only=False)


def test_a_refused_resume_leaves_the_folder_as_it_was_and_the_printed_command_goes_on(interrupt, tmp_path, capsys):
    folder, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    interrupt(1, teacher=True)
    with pytest.raises(SystemExit) as left:
        launch("train", [*SETTINGS, "trainer.max_epochs=2", f"cache={elsewhere}", f"hydra.run.dir={folder}"], "train")
    (command,) = re.findall(r"^  train (.*)$", capsys.readouterr().err, re.MULTILINE)
    assert left.value.code == 130 and shlex.split(command) == [f"resume={folder}", f"cache={elsewhere}"]
    before = contents(folder)
    for words, message in (
        ([f"resume={folder}"], "cache=.* reaches out of the run's folder; if you trust it, write it after resume= too"),
        ([*shlex.split(command), "optimizer.lr=0.5"], r"begun with other settings \(module.optimizer.lr\)"),
        ([*shlex.split(command), "model.depth=2"], "begun with other settings"),
    ):
        with pytest.raises(SystemExit):
            launch("train", words, "train")
        assert re.search(message, capsys.readouterr().err)
        assert contents(folder) == before
    launch("train", shlex.split(command), "train")
    assert torch.load(folder / "checkpoints" / "student" / "last.ckpt", weights_only=True)["epoch"] == 1


def test_what_reaches_out_of_a_folder_is_what_has_to_be_repeated(tmp_path):
    inside = [
        f"cache={tmp_path}/kept",
        "seed=1",
        "~callbacks",
        "objective@supervised=ce",
        "model={width: 2, depth: [1]}",
    ]
    outside = [
        "allowed_targets=[a.b]",
        "cache=kept",
        "+data.folder='~/data'",
        "teacher_weights=/a.ckpt",
        "seed=${oc.env:UID}",
    ]
    dropped = ["output=elsewhere", "resume=before"]
    (tmp_path / ".hydra").mkdir()
    lines = [*inside, *outside, *dropped]
    (tmp_path / ".hydra" / "overrides.yaml").write_text("".join(f"- {json.dumps(line)}\n" for line in lines))
    assert to_repeat(tmp_path, [*lines, "-m", "--config-dir=a", "word"]) == outside
    assert saved_overrides(tmp_path, ["--config-dir", "conf", *outside]) == inside


def test_a_kill_between_a_digest_and_its_checkpoint_leaves_a_good_one(tmp_path, monkeypatch):
    checkpoints, path = AtomicCheckpoints(), tmp_path / "last.ckpt"
    checkpoints.save_checkpoint({"step": 1}, path)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("lightning_losses.environment.atomic_files.os.fsync", killed)
        with pytest.raises(KeyboardInterrupt):
            checkpoints.save_checkpoint({"step": 2}, path)
    replace = os.replace
    for step in (3, 4):
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", lambda a, b: killed() if str(b) == str(path) else replace(a, b))
            with pytest.raises(KeyboardInterrupt):
                checkpoints.save_checkpoint({"step": step}, path)
        assert checkpoints.load_checkpoint(path) == {"step": 1}
    checkpoints.save_checkpoint({"step": 5}, path)
    assert checkpoints.load_checkpoint(path) == {"step": 5}
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match=r"checkpoint: .*last.ckpt was changed since it was written"):
        checkpoints.load_checkpoint(path)
    # One that came without a digest is read.
    digest_place(path).unlink()
    check_digest(path)
    # No scheme, by which a stranger's checkpoint could name any place.
    checkpoints.remove_checkpoint(f"local://{path}")
    assert path.exists()
    checkpoints.remove_checkpoint(path)
    assert not list(tmp_path.iterdir())
