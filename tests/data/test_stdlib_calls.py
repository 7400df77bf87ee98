import pytest
import torch

from lightning_losses.data import stdlib_calls
from lightning_losses.data.stdlib_calls import StdlibCalls, read_calls
from lightning_losses.data.stdlib_text import documented_functions

SOURCE = '''
def first(x):
    """Say what the first one does."""
    def inner():
        return print(x)
    return os.path.join(inner(), x.strip()[0](1))

def silent(x):
    return len(x)

class Kind:
    async def second(self):
        """Say what the second one does."""
        return len(await self.second())

def again():
    """Say what the first one does."""
    return open("file")

def third():
    """Too short."""
    return open(len("x"))

def idle():
    """Say what this one does not do."""
'''


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A standard library of a file, and a count of how often it was read."""
    file = tmp_path / "library.py"
    file.write_text(SOURCE)
    reads = []
    monkeypatch.setattr(stdlib_calls, "source_files", lambda: [file])
    monkeypatch.setattr(stdlib_calls, "read_calls", lambda paths: reads.append(1) or read_calls(paths))
    return file, reads


def test_a_function_has_its_docstring_its_code_without_it_and_what_it_calls(library):
    functions = documented_functions(library[0])
    assert [function.docstring.split()[-2] for function in functions] == ["one", "one", "one", "Too", "not"]
    assert functions[0].calls == {"print", "join", "inner", "strip"}
    assert functions[1].code == "async def second(self):\n    return len(await self.second())"
    assert functions[-1].code == "def idle():\n    pass"


def test_docstrings_are_used_once_if_they_say_enough_and_the_function_calls_something(library):
    assert read_calls([library[0]]) == [
        ("Say what the first one does.", ["inner", "join", "print", "strip"]),
        ("Say what the second one does.", ["len", "second"]),
    ]


def test_the_most_called_names_are_the_labels_and_a_file_keeps_what_was_read(library, tmp_path, monkeypatch):
    file, reads = library
    texts = [(f"A text of the number {n}.", ["even", "all"] if n % 2 == 0 else ["all"]) for n in range(20)]
    monkeypatch.setattr(stdlib_calls, "read_calls", lambda paths: reads.append(1) or [*texts, ("Rare.", ["rare"])])

    def made(**options):
        data = StdlibCalls(num_classes=2, length=16, buckets=64, batch_size=4, folder=tmp_path / "kept", **options)
        data.setup()
        return data

    data = made()
    assert data.class_names == ("all", "even")
    assert [len(data.train), len(data.val), len(data.test)] == [13, 2, 5]
    assert made().fingerprint() == data.fingerprint() != made(split_seed=1).fingerprint()
    batch = next(iter(data.train_dataloader()))
    assert batch["multi_hot"].dtype == torch.float32 and bool(batch["multi_hot"][:, 0].all())
    assert torch.equal(data.train.target[batch["index"]], batch["multi_hot"].bool())
    assert len(reads) == 1
    # Other sources, or a file that is cut, are read anew.
    next((tmp_path / "kept").iterdir()).write_text("[[")
    made()
    file.write_text("other")
    made()
    assert len(reads) == 3


def test_fewer_names_than_labels_are_refused(library, tmp_path):
    with pytest.raises(ValueError) as error:
        StdlibCalls(num_classes=9, folder=tmp_path).setup()
    assert str(error.value) == (
        "stdlib_calls: num_classes=9 came, and the functions call 6 names; give at most as many."
    )
