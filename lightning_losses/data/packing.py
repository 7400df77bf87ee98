"""Packs several documents into rows of equal length, for models that keep documents separate."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from lightning_losses.numerics.checks import check_count

IGNORED = -100
"""The target of a token whose successor is in another document, or of padding."""


class PackedRows(NamedTuple):
    """Rows of tokens, the next token within the same document, and the document of each token.

    Attributes:
        inputs: the tokens; 0 for padding.
        target: the next token of the same document; `IGNORED` if there is none.
        documents: 0, 1, ... in the order of the row; -1 for padding.
    """

    inputs: Int[Tensor, "rows time"]
    target: Int[Tensor, "rows time"]
    documents: Int[Tensor, "rows time"]


def pack_documents(documents: Sequence[Int[Tensor, " tokens"]], block_length: int, packed: bool = True) -> PackedRows:
    """Pack documents into rows of `block_length` tokens, each document whole in one row.

    The longest documents come first, each into the fullest row that still has room for it ("best fit, decreasing"),
    which wastes little. A document longer than a row is cut into pieces, which count as separate documents. The last
    token of a piece has the first token of the next piece as its target, so that only context is lost. The last token
    of a document has no target, and a document of one token is omitted, because nothing can be learnt from it.

    Args:
        documents: token ids, in any integer type.
        block_length: the tokens of a row, at least 1.
        packed: False gives every document or piece a row of its own, with more padding.

    Raises:
        ValueError: a block length below 1; documents that hold no ids; no document of at least 2 tokens.

    Example:
        >>> rows = pack_documents([torch.tensor([1, 2, 3]), torch.tensor([4, 5])], block_length=6)
        >>> rows.inputs.tolist(), rows.target.tolist(), rows.documents.tolist()
        ([[1, 2, 3, 4, 5, 0]], [[2, 3, -100, 5, -100, -100]], [[0, 0, 0, 1, 1, -1]])
    """
    check_count("pack_documents", "block_length", block_length)
    if wrong := [document.dtype for document in documents if document.ndim != 1 or document.is_floating_point()]:
        raise ValueError(f"pack_documents: documents of {wrong[0]} came; give [tokens] ids of an integer type.")
    pieces = [piece for document in documents for piece in _pieces(document.long(), block_length)]
    if not pieces:
        raise ValueError(
            f"pack_documents: {len(documents)} documents came, none of at least 2 tokens; give longer ones."
        )
    order = sorted(range(len(pieces)), key=lambda position: -len(pieces[position][0]))
    rows: list[list[int]] = []
    # The rows by their remaining room.
    by_room: list[list[int]] = [[] for _ in range(block_length + 1)]
    for position in order:
        length = len(pieces[position][0])
        room = next((room for room in range(length, block_length) if packed and by_room[room]), block_length)
        if room == block_length:
            rows.append([])
        row = by_room[room].pop() if room < block_length else len(rows) - 1
        rows[row].append(position)
        by_room[room - length].append(row)
    shape = (len(rows), block_length)
    filled = PackedRows(torch.zeros(shape).long(), torch.full(shape, IGNORED), torch.full(shape, -1))
    for row, positions in enumerate(rows):
        start = 0
        for number, position in enumerate(positions):
            inputs, target = pieces[position]
            columns = slice(start, start := start + len(inputs))
            filled.inputs[row, columns], filled.target[row, columns] = inputs, target
            filled.documents[row, columns] = number
    return filled


def _pieces(document: Tensor, block_length: int) -> list[tuple[Tensor, Tensor]]:
    target = torch.cat([document[1:], document.new_tensor([IGNORED])])
    pieces = zip(*(torch.split(part, block_length) for part in (document, target)), strict=True)
    return [(inputs, following) for inputs, following in pieces if bool((following != IGNORED).any())]
