import pytest
import torch

from lightning_losses.checkpoints.atomic_checkpoints import AtomicCheckpoints
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
