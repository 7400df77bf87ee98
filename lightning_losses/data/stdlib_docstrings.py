"""The standard library's docstrings as byte tokens; each is a document, and several are packed in a row."""

from dataclasses import KW_ONLY, field
from pathlib import Path

import torch

from lightning_losses.data.loading import Batch
from lightning_losses.data.packing import IGNORED, pack_documents
from lightning_losses.data.stdlib_text import StdlibText, TextDataset, docstrings

# Separates a file's docstrings; none of them contains it.
_BETWEEN = b"\0"


class PackedDataset(TextDataset):
    """Documents packed into rows; a list of positions returns the whole batch.

    Args:
        documents: the bytes of each document.
        block_length: the tokens of a row.
        packed: False gives every document a row of its own.

    Raises:
        ValueError: as `pack_documents`.

    Example:
        >>> batch = PackedDataset([b"abc", b"de"], block_length=6)[0]
        >>> batch["target"].tolist(), batch["documents"].tolist()
        ([98, 99, -100, 101, -100, -100], [0, 0, 0, 1, 1, -1])
    """

    def __init__(self, documents: list[bytes], block_length: int, packed: bool = True) -> None:
        tokens = [torch.tensor(list(document), dtype=torch.uint8) for document in documents]
        rows = pack_documents(tokens, block_length, packed)
        self.text = torch.cat(tokens)
        self.inputs = rows.inputs.to(torch.uint8)
        self.target, self.documents = rows.target.to(torch.int16), rows.documents.to(torch.int16)

    def __getitems__(self, positions: list[int]) -> Batch:
        """The batch of the rows at these positions, as [B, T] int64."""
        index = torch.as_tensor(positions)
        return {**super().__getitems__(positions), "documents": self.documents[index].long()}

    @property
    def filled(self) -> float:
        """The share of positions that hold a token."""
        return float((self.documents >= 0).float().mean())


class StdlibDocstrings(StdlibText):
    """The standard library's docstrings as byte tokens, in batches ``{"inputs", "target", "documents"}`` of [B, T].

    Each docstring is a document, and no document sees another: `documents` tells each token's document, and the last
    token of each document has the target `IGNORED`. A file's docstrings are all in one split. Everything else is as in
    `StdlibText`.

    Args:
        packed: False gives every document a row of its own, with padding.
        block_length, ...: see `StdlibText`; `max_bytes` counts bytes of docstrings.

    Raises:
        ValueError: as `StdlibText`.

    Example:
        >>> data = StdlibDocstrings(batch_size=2, block_length=64, max_bytes=20_000)
        >>> data.setup()
        >>> sorted(data.train.__getitems__([0, 1])), data.train.filled > 0.95
        (['documents', 'inputs', 'target'], True)
    """

    name = "stdlib_docstrings"

    _: KW_ONLY
    packed: bool = True
    train: PackedDataset = field(init=False)
    val: PackedDataset = field(init=False)
    test: PackedDataset = field(init=False)

    def _dataset(self, texts: list[bytes]) -> PackedDataset:
        documents = [document for text in texts for document in text.split(_BETWEEN) if document]
        return PackedDataset(documents, self.block_length, self.packed)

    def _read(self, path: Path) -> bytes:
        return _BETWEEN.join(text.replace("\0", " ").encode() for text in docstrings(path))


__all__ = ["IGNORED", "PackedDataset", "StdlibDocstrings"]
