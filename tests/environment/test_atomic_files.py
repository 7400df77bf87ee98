"""What a crash of the machine leaves: the file before, or the whole of the new one."""

import errno
import os

import pytest
import torch

from lightning_losses.environment.atomic_files import replacing, write_all, write_text
from lightning_losses.environment.file_digests import announce, check_digest
from lightning_losses.environment.private_folder import private_folder
from lightning_losses.teachers import CachedLogits


def test_a_file_is_on_disk_before_it_takes_its_name_and_its_name_before_the_end(tmp_path, monkeypatch):
    events, fsync, replace = [], os.fsync, os.replace

    def flushed(descriptor):
        fsync(descriptor)
        events.append(("flush", os.fstat(descriptor).st_ino))

    def replaced(source, destination):
        replace(source, destination)
        events.append(("replace", os.stat(destination).st_ino))

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "replace", replaced)
    path = tmp_path / "folder" / "file"
    write_text(path, "content")
    file, folder = path.stat().st_ino, path.parent.stat().st_ino
    assert path.read_text() == "content"
    assert events == [("flush", file), ("replace", file)] + ([("flush", folder)] if os.name == "posix" else [])


def test_no_link_is_followed_to_another_file(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / ".file.partial").symlink_to(victim)
    write_text(tmp_path / "file", "content")
    assert victim.read_text() == "mine" and (tmp_path / "file").read_text() == "content"
    # Nor one that lies under the name itself.
    (tmp_path / "linked").symlink_to(victim)
    write_text(tmp_path / "linked", "content")
    assert victim.read_text() == "mine" and not (tmp_path / "linked").is_symlink()


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o007, 0o660), (0o077, 0o600)])
def test_a_file_can_be_read_by_whom_the_umask_says(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        # safetensors puts a file of its own there.
        CachedLogits(torch.eye(2)).save(tmp_path / "logits.safetensors")
    finally:
        os.umask(before)
    assert (tmp_path / "logits.safetensors").stat().st_mode & 0o777 == mode


class Interrupted:
    """A stream that Ctrl-C meets at its second part."""

    def __init__(self, stream):
        self.stream, self.parts = stream, 0

    def write(self, part):
        self.parts += 1
        if self.parts == 2:
            raise KeyboardInterrupt
        return self.stream.write(part)

    def flush(self):
        self.stream.flush()


def test_ctrl_c_within_the_writer_of_torch_stays_ctrl_c(tmp_path):
    """The writer then finds its file too short, and raises an error of its own."""
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "file") as partial, partial.open("wb") as stream:
        torch.save({"weight": torch.zeros(100)}, Interrupted(stream))
    assert not list(tmp_path.iterdir())


def test_a_disk_that_is_full_is_told_also_when_ctrl_c_came_before(tmp_path):
    """A last checkpoint is written after it."""
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        with pytest.raises(OSError, match="No space left"), replacing(tmp_path / "file"):
            raise OSError(errno.ENOSPC, "No space left on device") from None


def _refused():
    raise FileNotFoundError(errno.ENOENT, "No such file or directory", "another")


def test_an_error_that_hides_a_refusal_stays_what_it_is(tmp_path):
    with pytest.raises(ValueError, match="give one that is there"), replacing(tmp_path / "file"):
        try:
            _refused()
        except FileNotFoundError:
            raise ValueError("another is missing; give one that is there") from None


def test_a_refusal_before_the_writing_is_not_behind_an_error_in_it(tmp_path):
    try:
        _refused()
    except FileNotFoundError:
        with pytest.raises(TypeError, match="no len"), replacing(tmp_path / "file"):
            len(None)


def test_a_file_without_a_digest_passes_after_a_kill_before_its_first_one_takes_effect(tmp_path):
    (tmp_path / "file").write_text("before")
    (tmp_path / "new").write_text("after")
    announce(tmp_path / "file", tmp_path / "new")
    check_digest(tmp_path / "file")
    os.replace(tmp_path / "new", tmp_path / "file")
    check_digest(tmp_path / "file")
    (tmp_path / "file").write_text("damaged")
    with pytest.raises(ValueError, match="changed since it was written"):
        check_digest(tmp_path / "file")


def test_what_was_written_before_a_refusal_is_as_it_was_to_the_byte(tmp_path):
    (tmp_path / "first").write_bytes(b"one\r\ntwo\xff\r\n")
    with pytest.raises(NotADirectoryError):
        write_all({tmp_path / "first": "new", tmp_path / "first" / "second": "new"})
    assert (tmp_path / "first").read_bytes() == b"one\r\ntwo\xff\r\n"


def test_a_file_is_no_private_folder(tmp_path):
    (tmp_path / "file").touch(mode=0o600)
    with pytest.raises(PermissionError, match="no folder"):
        private_folder(tmp_path / "file")
