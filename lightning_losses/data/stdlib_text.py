"""The Python standard library's sources as byte tokens: real text that every Python installation has."""

import ast
import hashlib
import math
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import KW_ONLY, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from lightning_losses.data.loading import Batch, BatchDataset, SplitData
from lightning_losses.data.splits import split_whole
from lightning_losses.numerics.checks import check_count
from lightning_losses.numerics.settings import Count

# Tests and packages don't belong to the library. The codecs are 120 nearly equal tables, which would be in both
# training and validation.
_LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "encodings"}


class TextDataset(BatchDataset):
    """A text cut into blocks; a list of positions returns the whole batch.

    A block's targets are its tokens shifted by one, so that each token except the text's first is a target once.

    Args:
        text: [n] tokens.
        block_length: T, the tokens of a block; the rest at the end is not used.

    Raises:
        ValueError: a text shorter than one block and its last target.

    Example:
        >>> dataset = TextDataset(torch.arange(8, dtype=torch.uint8), block_length=3)
        >>> len(dataset), dataset[1]
        (2, {'inputs': tensor([3, 4, 5]), 'target': tensor([4, 5, 6])})
    """

    def __init__(self, text: UInt8[Tensor, " tokens"], block_length: int) -> None:
        check_count("text_dataset", "block_length", block_length)
        blocks = (len(text) - 1) // block_length
        if blocks < 1:
            raise ValueError(
                f"text_dataset: block_length={block_length} came with a text of {len(text)} tokens; give shorter "
                "blocks, or more text."
            )
        self.text = text
        self.inputs = text[: blocks * block_length].reshape(blocks, block_length)
        self.target = text[1 : blocks * block_length + 1].reshape(blocks, block_length)

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitems__(self, positions: list[int]) -> Batch:
        """The batch of the blocks at these positions, as [B, T] int64."""
        index = torch.as_tensor(positions)
        return {"inputs": self.inputs[index].long(), "target": self.target[index].long()}


class StdlibText(SplitData):
    """The standard library's ``.py`` files as byte tokens, in batches ``{"inputs", "target"}`` of [B, T].

    The files, without tests, installed packages, codec tables and build settings, are taken in an order that
    `split_seed` fixes, until there are `max_bytes`; a file contributes at most a fiftieth of that. Each file is in one
    split only.

    The text depends on Python's version; `fingerprint` tells whether two machines have the same text.

    Args:
        block_length: T, the tokens of a block.
        max_bytes: the largest size of the whole text.
        vocabulary_size: 256 and no other number; configurations build their networks with it.
        batch_size, ...: see `SplitData`; the splits' shares are exact within a fiftieth of the text, and `split_seed`
            fixes the order of files.

    Raises:
        ValueError: a value out of range; no sources; a split too short for one block; a batch size that can't be
            divided among the processes.

    Example:
        >>> data = StdlibText(batch_size=2, block_length=16, max_bytes=50_000)
        >>> data.setup()
        >>> data.train.__getitems__([0, 1])["target"].shape
        torch.Size([2, 16])
    """

    name = "stdlib_text"
    batch_size = 16

    block_length: Count = 128
    max_bytes: Count = 2_000_000
    _: KW_ONLY
    vocabulary_size: int = 256
    train: TextDataset = field(init=False)
    val: TextDataset = field(init=False)
    test: TextDataset = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.vocabulary_size != 256:
            raise ValueError(f"{self.name}: vocabulary_size={self.vocabulary_size} came; there are 256 bytes.")

    def splits(self) -> tuple[TextDataset, TextDataset, TextDataset]:
        """Read the files and assign each to one split."""
        parts = split_whole(list(self._texts()), val_fraction=self.val_fraction, test_fraction=self.test_fraction)
        train, val, test = map(self._dataset, parts)
        return train, val, test

    def fingerprint(self) -> str:
        """A hash of the three splits."""
        self.setup()
        content = hashlib.sha256()
        for dataset in (self.train, self.val, self.test):
            content.update(hashlib.sha256(dataset.text.numpy().tobytes()).digest())
        return content.hexdigest()

    def _dataset(self, texts: list[bytes]) -> TextDataset:
        """One split, from its files' contents."""
        tokens = np.frombuffer(b"".join(texts), dtype=np.uint8)
        return TextDataset(torch.from_numpy(tokens.copy()), self.block_length)

    def _texts(self) -> Iterator[bytes]:
        """The files' contents in the split's order, `max_bytes` in total."""
        paths = self._files()
        # numpy guarantees RandomState's stream forever; a Generator's may change between versions.
        left, longest = self.max_bytes, math.ceil(self.max_bytes / 50)
        for position in np.random.RandomState(self.split_seed).permutation(len(paths)):
            if left == 0:
                return
            # Otherwise one long file could fill a whole split.
            text = self._read(paths[position])[: min(left, longest)]
            left -= len(text)
            yield text

    def _files(self) -> list[Path]:
        """The files that the text is made of."""
        return source_files()

    def _read(self, path: Path) -> bytes:
        """The part of a file that is used."""
        return path.read_bytes()


def library_root() -> Path:
    """The folder of the standard library's sources."""
    return Path(sysconfig.get_paths()["stdlib"])


def source_files() -> list[Path]:
    """The standard library's ``.py`` files, sorted by their path within it.

    Raises:
        ValueError: there are none, for example because Python was installed without its sources.

    Example:
        >>> any(path.name == "argparse.py" for path in source_files())
        True
    """
    root = library_root()
    found = {
        path.relative_to(root).as_posix(): path
        for path in root.rglob("*.py")
        # Build settings differ between machines.
        if not _LEFT_OUT.intersection(path.relative_to(root).parts) and not path.name.startswith("_sysconfigdata")
    }
    if not found:
        raise ValueError(f"stdlib_text: no .py files are in {root}; use a Python that was installed with its sources.")
    return [found[name] for name in sorted(found)]


def docstrings(path: Path) -> list[str]:
    """The docstrings of a source file, its classes and its functions, in order and without indentation.

    Example:
        >>> path = next(path for path in source_files() if path.name == "textwrap.py")
        >>> docstrings(path)[0]
        'Text wrapping and filling.'
    """
    places = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = sorted(
        (node for node in ast.walk(_parsed(path)) if isinstance(node, places)),
        key=lambda node: getattr(node, "lineno", 0),
    )
    return [text for node in nodes if (text := ast.get_docstring(node))]


class DocumentedFunction(NamedTuple):
    """A function that has a docstring: the docstring, the code without it, and the names of what the code calls."""

    docstring: str
    code: str
    calls: frozenset[str]


def documented_functions(path: Path) -> list[DocumentedFunction]:
    """The functions and methods of a source file that have a docstring, in order.

    Example:
        >>> path = next(path for path in source_files() if path.name == "textwrap.py")
        >>> function = next(each for each in documented_functions(path) if each.code.startswith("def shorten"))
        >>> sorted(function.calls), function.code.partition("\\n")[0]
        (['TextWrapper', 'fill', 'join', 'split', 'strip'], 'def shorten(text, width, **kwargs):')
    """
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = sorted((n for n in ast.walk(_parsed(path)) if isinstance(n, kinds)), key=lambda node: node.lineno)
    functions = []
    for node in nodes:
        docstring = ast.get_docstring(node)
        if docstring:
            called = [part.func for part in ast.walk(node) if isinstance(part, ast.Call)]
            names = {name for each in called if (name := getattr(each, "id", None) or getattr(each, "attr", None))}
            # The docstring is the body's first statement.
            node.body = node.body[1:] or [ast.Pass()]
            functions.append(DocumentedFunction(docstring, ast.unparse(node), frozenset(names)))
    return functions


def _parsed(path: Path) -> ast.Module:
    with warnings.catch_warnings():
        # Old sources contain escapes that newer Pythons warn about.
        warnings.simplefilter("ignore")
        return ast.parse(path.read_bytes())
