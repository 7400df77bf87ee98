"""The standard library's docstrings as pairs of first paragraph and rest, or of first paragraph and code."""

import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_losses.data.loading import Batch, BatchDataset, SplitData
from lightning_losses.data.splits import split_whole
from lightning_losses.data.stdlib_text import docstrings, documented_functions, source_files
from lightning_losses.networks.hashed_text_encoder import hashed_features
from lightning_losses.numerics.settings import Bound, Count
from lightning_losses.samplers.ngame_sampler import NGAMESampler

# Shorter texts are too hard to tell apart.
_SHORTEST_QUERY, _SHORTEST_DOCUMENT = 15, 40


class Pair(NamedTuple):
    """A docstring's first paragraph, and the rest of it, or the code of its function."""

    query: str
    document: str


class PairDataset(BatchDataset):
    """What an encoder takes of pairs; a list of positions returns the whole batch.

    Args:
        pairs: the pairs of texts.
        index: their positions among the pairs of all splits.
        features: makes a row of numbers of each text.
    """

    def __init__(
        self,
        pairs: list[Pair],
        index: Int[Tensor, " pairs"],
        features: Callable[[Sequence[str]], Int[Tensor, "texts time"]],
    ) -> None:
        self.pairs, self.index = pairs, index
        self.queries, self.documents = (
            features(texts) for texts in ([pair.query for pair in pairs], [pair.document for pair in pairs])
        )

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitems__(self, positions: list[int]) -> Batch:
        """The batch of the pairs at these positions."""
        chosen = torch.as_tensor(positions)
        return {"query": self.queries[chosen], "document": self.documents[chosen], "index": self.index[chosen]}


class DocstringPairs(SplitData):
    """Queries and documents from the standard library: docstrings' first paragraphs, and the rest or the code.

    `split_seed` fixes the order of files; each file belongs to one split. Repeated texts are used once.

    Args:
        documents: "rest" of each docstring, or the "code" of its function or method, without the docstring.
        max_pairs: the largest number of pairs over all splits.
        curriculum: the epochs at which the training batches' samples lie closer together, as `NGAMESampler` takes them;
            it needs the callback `NGAMEClusters`. None: batches are random.
        buckets: see `hashed_features`.
        length: likewise; the student's features of a text.
        tokenizer: what makes the numbers of texts in place of hashed words, by `tokenize`, such as a
            `SentenceTokenizer` for a `SentenceEncoder`; None: hashed words.
        batch_size, ...: see `SplitData`.

    Attributes:
        pairs: all pairs, in the order of their `index`.

    Raises:
        ValueError: a value out of range; a split without pairs; a batch size that can't be divided among the processes.

    Example:
        >>> data = DocstringPairs(batch_size=4, max_pairs=60)
        >>> data.setup()
        >>> sorted(data.train.__getitems__([0, 1])), len(data.pairs)
        (['document', 'index', 'query'], 60)
    """

    name = "docstring_pairs"
    test_fraction = 0.25
    drop_last = True

    max_pairs: Count = 2000
    documents: Literal["rest", "code"] = "rest"
    curriculum: Sequence[int] | None = None
    buckets: Annotated[int, Bound(least=2)] = 8192
    length: Count = 256
    tokenizer: Any = None
    pairs: list[Pair] = field(init=False)
    train: PairDataset = field(init=False)
    val: PairDataset = field(init=False)
    test: PairDataset = field(init=False)

    def splits(self) -> tuple[PairDataset, PairDataset, PairDataset]:
        """Read the files and assign each to one split."""
        files = _read_pairs(self.max_pairs, self.split_seed, self.documents)
        shared = split_whole(files, val_fraction=self.val_fraction, test_fraction=self.test_fraction)
        parts = [[pair for pairs in part for pair in pairs] for part in shared]
        if not all(parts):
            raise ValueError(f"{self.name}: max_pairs={self.max_pairs} leaves a split without pairs; give more.")
        self.pairs = [pair for part in parts for pair in part]
        ends = np.cumsum([len(part) for part in parts]).tolist()
        train, val, test = (
            PairDataset(part, torch.arange(end - len(part), end), self._features)
            for part, end in zip(parts, ends, strict=True)
        )
        return train, val, test

    def _features(self, texts: Sequence[str]) -> Int[Tensor, "texts time"]:
        """Token ids, or hashed words."""
        if self.tokenizer is None:
            return hashed_features(texts, buckets=self.buckets, length=self.length)
        ids: Tensor = self.tokenizer.tokenize(texts)
        return ids

    def fingerprint(self) -> str:
        """A hash of the three splits."""
        self.setup()
        splits = [(len(split), split.pairs) for split in (self.train, self.val, self.test)]
        return hashlib.sha256(repr(splits).encode()).hexdigest()

    def shuffled(self, batch_size: int, world: int, rank: int) -> DataLoader[Batch]:
        """This process's share of the training pairs, in random batches or in those of the curriculum."""
        if self.curriculum is None:
            return super().shuffled(batch_size, world, rank)
        planned = NGAMESampler(
            len(self.train), batch_size * world, world, rank, self.seed, curriculum=list(self.curriculum)
        )
        return self.loader(self.train, batch_size, planned)

    def val_dataloader(self) -> DataLoader[Batch]:
        """The validation split as one batch on every process, so that each query is compared with all documents."""
        return self.loader(self.val, len(self.val))

    def test_dataloader(self) -> DataLoader[Batch]:
        """The test split in one batch, likewise."""
        return self.loader(self.test, len(self.test))


@functools.cache
def _read_pairs(max_pairs: int, split_seed: int, documents: str) -> list[list[Pair]]:
    """Each file's pairs in the split's order, `max_pairs` in total; read once per process."""
    paths, seen = source_files(), set[str]()
    found: list[list[Pair]] = []
    left = max_pairs
    # numpy guarantees RandomState's stream forever; a Generator's may change between versions.
    for position in np.random.RandomState(split_seed).permutation(len(paths)):
        pairs = []
        for text, code in _texts(paths[position], documents):
            first, _, rest = text.partition("\n\n")
            pair = Pair(" ".join(first.split()), " ".join((rest if code is None else code).split()))
            long = len(pair.query) >= _SHORTEST_QUERY and len(pair.document) >= _SHORTEST_DOCUMENT
            if long and left and not seen.intersection(pair):
                seen.update(pair)
                pairs.append(pair)
                left -= 1
        found.append(pairs)
        if not left:
            break
    return found


def _texts(path: Path, documents: str) -> list[tuple[str, str | None]]:
    """A file's docstrings, each with its function's code where that is the document."""
    if documents == "rest":
        return [(text, None) for text in docstrings(path)]
    return [(function.docstring, function.code) for function in documented_functions(path)]
