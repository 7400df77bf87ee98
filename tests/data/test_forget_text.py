import pytest
import torch

from lightning_losses.data.forget_text import FilesDataset, ForgetText
from lightning_losses.data.stdlib_text import library_root

SMALL = {"package": "json", "forget_bytes": 4000, "max_bytes": 20_000, "block_length": 16, "batch_size": 4}


def data(**settings):
    made = ForgetText(**{**SMALL, **settings})
    made.setup()
    return made


def text(dataset):
    return bytes(dataset.text.tolist())


def test_the_packages_files_are_dealt_out_and_in_no_other_part():
    parts = data()
    files = sorted((path.read_bytes() for path in (library_root() / "json").glob("*.py")), key=len, reverse=True)
    # At most a quarter of a part is of one file.
    for part, own in ((parts.forget, files[::2]), (parts.unseen, files[1::2])):
        whole = text(part)
        assert len(whole) <= 4000 and whole.startswith(own[0][:1000])
        assert whole[1000:].startswith(own[1][:1000])
    for part in (parts.retain, parts.val, parts.test):
        assert not any(file[:200] in text(part) for file in files)


def test_what_training_sees():
    both, retained = data(), data(content="retained")
    assert text(both.train) == text(both.forget) + text(both.retain)
    assert text(retained.train) == text(retained.retain) == text(both.retain)
    assert both.fingerprint() != retained.fingerprint() == data(content="retained").fingerprint()


def test_parts_pair_every_block():
    parts = data(content="parts")
    batch = parts.train.__getitems__(list(range(len(parts.train))))
    assert len(parts.train) == len(parts.retain) > len(parts.forget)
    assert torch.equal(batch["forget"]["inputs"][: len(parts.forget)], parts.forget.inputs.long())
    # Every block to retain once, and not in the text's order.
    given, own = batch["retain"]["inputs"], parts.retain.inputs.long()
    assert not torch.equal(given, own)
    assert sorted(given.tolist()) == sorted(own.tolist())
    validation = parts.val.__getitems__([0])
    assert torch.equal(validation["forget"]["inputs"][0], parts.forget.inputs[0].long())
    assert sorted(next(iter(parts.train_dataloader()))) == ["forget", "retain"]


def test_a_block_knows_its_file():
    files = [b"a" * 10, b"b" * 2, b"c" * 21]
    dataset = FilesDataset(files, block_length=5)
    assert dataset.file.tolist() == [0, 0, 1, 2, 2, 2]
    assert all(row[0] == b"abc"[file] for row, file in zip(dataset.inputs.tolist(), dataset.file.tolist(), strict=True))


def test_a_package_without_two_files_is_refused():
    with pytest.raises(ValueError, match="package='no_such_folder' has 0 files"):
        data(package="no_such_folder")
