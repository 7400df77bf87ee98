"""What a crash of the machine leaves: the file before, or the whole of the new one."""

import os

from lightning_losses.environment.atomic_files import write_text


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
