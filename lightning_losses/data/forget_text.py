"""The standard library's text in parts: a package to forget, files of it that were never seen, and text to retain."""

import hashlib
from collections.abc import Sequence
from dataclasses import KW_ONLY, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from lightning_losses.data.loading import BatchDataset
from lightning_losses.data.splits import split_whole
from lightning_losses.data.stdlib_text import StdlibText, TextDataset, library_root, source_files
from lightning_losses.numerics.settings import Count


class FilesDataset(TextDataset):
    """Files joined and cut into blocks, each of which knows in which file it begins.

    Args:
        files: the files' contents.
        block_length: T, the tokens of a block.

    Attributes:
        file: [blocks] which file, from 0, each block begins in.

    Example:
        >>> dataset = FilesDataset([b"abcd", b"efgh"], block_length=3)
        >>> dataset.file.tolist(), dataset[1]["inputs"].tolist()
        ([0, 0], [100, 101, 102])
    """

    def __init__(self, files: Sequence[bytes], block_length: int) -> None:
        text = torch.from_numpy(np.frombuffer(b"".join(files), dtype=np.uint8).copy())
        super().__init__(text, block_length)
        ends = torch.tensor([len(file) for file in files]).cumsum(0)
        begins = torch.arange(len(self)) * block_length
        self.file: Int[Tensor, " blocks"] = torch.bucketize(begins, ends, right=True)


class Parts(BatchDataset):
    """Blocks to forget, each beside a block to retain; a list of positions returns the whole batch.

    There are as many positions as the larger part has blocks; the smaller part begins again. Blocks to retain are in an
    order that is fixed, and not in that of the text, so that a batch of neighbours to forget has no neighbours to
    retain.

    Args:
        forget: the blocks to forget.
        retain: the blocks to retain.

    Example:
        >>> texts = (TextDataset(torch.arange(n, dtype=torch.uint8), 2) for n in (5, 9))
        >>> batch = Parts(*texts).__getitems__([1, 0])
        >>> batch["forget"]["inputs"].tolist(), batch["retain"]["inputs"].shape
        ([[2, 3], [0, 1]], torch.Size([2, 2]))
    """

    def __init__(self, forget: TextDataset, retain: TextDataset) -> None:
        self.forget, self.retain = forget, retain
        self._order = np.random.RandomState(0).permutation(len(retain))

    def __len__(self) -> int:
        return max(len(self.forget), len(self.retain))

    def __getitems__(self, positions: list[int]) -> Any:
        """The batch of the blocks at these positions."""
        own = [position % len(self.forget) for position in positions]
        beside = [int(self._order[position % len(self.retain)]) for position in positions]
        return {"forget": self.forget.__getitems__(own), "retain": self.retain.__getitems__(beside)}


class ForgetText(StdlibText):
    """A package of the standard library to forget, and the rest to retain.

    The package's files are dealt to `forget` and `unseen` in turn, the longest first, up to `forget_bytes` each: text
    of one kind, of which a model is trained on one half alone. Of the other files `StdlibText`'s first `max_bytes` make
    `retain`, and the validation and test splits.

    Args:
        package: a folder of the standard library.
        forget_bytes: the most bytes of `forget`, and of `unseen`.
        content: what training sees: "all" is `forget` and `retain`, "retained" is `retain` alone, and "parts" gives
            batches ``{"forget": {"inputs", "target"}, "retain": {...}}``. The validation split has the same form, with
            `forget` itself beside text that nothing was trained on.
        max_bytes, ...: see `StdlibText`.

    Attributes:
        forget, unseen, retain: the parts, once `setup` has run.

    Raises:
        ValueError: a folder without two files; as `StdlibText`.

    Example:
        >>> data = ForgetText(package="json", forget_bytes=4000, max_bytes=20_000, content="parts", block_length=16)
        >>> data.setup()
        >>> sorted(data.train.__getitems__([0, 1])), 0 < len(data.unseen.text) <= 4000
        (['forget', 'retain'], True)
    """

    name = "forget_text"

    package: str = "email"
    _: KW_ONLY
    forget_bytes: Count = 40_000
    content: Literal["all", "retained", "parts"] = "all"
    forget: FilesDataset = field(init=False)
    unseen: FilesDataset = field(init=False)
    retain: FilesDataset = field(init=False)
    train: Any = field(init=False)
    val: Any = field(init=False)
    test: Any = field(init=False)

    def splits(self) -> tuple[Any, Any, Any]:
        """Read the files, and share them out."""
        train, val, test = split_whole(
            list(self._texts()), val_fraction=self.val_fraction, test_fraction=self.test_fraction
        )
        forget, unseen = self._package()
        self.forget, self.unseen, self.retain, held_out, tested = (
            FilesDataset(files, self.block_length) for files in (forget, unseen, train, val, test)
        )
        if self.content == "parts":
            return Parts(self.forget, self.retain), Parts(self.forget, held_out), Parts(self.forget, tested)
        seen = self.retain if self.content == "retained" else FilesDataset([*forget, *train], self.block_length)
        return seen, held_out, tested

    def fingerprint(self) -> str:
        """A hash of all parts."""
        self.setup()
        content = hashlib.sha256(self.content.encode())
        held_out, tested = (getattr(split, "retain", split) for split in (self.val, self.test))
        for dataset in (self.forget, self.unseen, self.retain, held_out, tested):
            content.update(hashlib.sha256(dataset.text.numpy().tobytes()).digest())
        return content.hexdigest()

    def _package(self) -> tuple[list[bytes], list[bytes]]:
        """The package's files to forget, and those that are never seen."""
        texts = sorted((path.read_bytes() for path in self._of_package(True)), key=lambda text: (-len(text), text))
        if sum(len(text) > 0 for text in texts) < 2:
            raise ValueError(
                f"{self.name}: package={self.package!r} has {len(texts)} files in the standard library; give a folder "
                "of at least two, such as 'email'."
            )
        return _cut(texts[::2], self.forget_bytes), _cut(texts[1::2], self.forget_bytes)

    def _of_package(self, inside: bool) -> list[Path]:
        return [path for path in source_files() if (self.package in _folders(path)) == inside]

    def _files(self) -> list[Path]:
        """The files that the rest of the text is made of."""
        return self._of_package(False)


def _folders(path: Path) -> tuple[str, ...]:
    """The folders of a file within the standard library."""
    return tuple(path.relative_to(library_root()).parts[:-1])


def _cut(texts: Sequence[bytes], most: int) -> list[bytes]:
    """The first so many bytes, with at most a quarter of them from one text."""
    left, kept = most, []
    for text in texts:
        kept.append(text[: min(left, -(-most // 4))])
        left -= len(kept[-1])
    return [text for text in kept if text]
