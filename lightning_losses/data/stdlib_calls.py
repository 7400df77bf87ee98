"""An extreme multi-label set from the standard library: which names does a function call, told by its docstring?"""

import hashlib
import json
import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import KW_ONLY, field
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from lightning_losses.data.loading import Batch, SamplesInMemory, SplitData, digest_of
from lightning_losses.data.stdlib_text import documented_functions, source_files
from lightning_losses.environment.atomic_files import replacing
from lightning_losses.environment.cache_folder import cache_folder
from lightning_losses.networks.hashed_text_encoder import hashed_features
from lightning_losses.numerics.settings import Bound, Count

# Shorter docstrings say too little.
_SHORTEST = 15


class CallsDataset(SamplesInMemory):
    """Hashed features of docstrings, each with the labels of its function; labels are kept as bits.

    Example:
        >>> rows = CallsDataset(torch.zeros(3, 2).long(), torch.eye(3).bool())
        >>> rows.__getitems__([2, 0])["multi_hot"].tolist()
        [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    """

    target_name = "multi_hot"

    def __getitems__(self, positions: list[int]) -> Batch:
        """The batch of the samples at these positions."""
        batch = super().__getitems__(positions)
        return {**batch, "multi_hot": batch["multi_hot"].float()}


class StdlibCalls(SplitData):
    """Docstrings of the standard library's functions, and which of `num_classes` names each function's code calls.

    A sample is a function or method with a docstring; a docstring is used once. Its labels are the names of what it
    calls (``join`` for ``os.path.join``; its decorators and defaults too), among the `num_classes` that most functions
    call; a function that calls none of these is left out. There are about 5,400 samples with 3.5 labels each on
    average, and half of the labels are on no more than two of the training samples: a long tail. `split_seed` draws the
    splits of functions, so that a name that a module keeps to itself may be in all of them.

    The text depends on Python's version; `fingerprint` tells whether two machines have the same. What is read is kept
    in a file.

    Args:
        num_classes: L, at least 2; configurations build their networks with it.
        buckets: see `hashed_features`.
        length: likewise; the features of a docstring.
        folder: where what was read is kept; None takes the library's cache.
        batch_size, ...: see `SplitData`.

    Attributes:
        class_names: the names, from the most common to the rarest.

    Raises:
        ValueError: a value out of range; fewer names than `num_classes`; a batch size that can't be divided among the
            processes.
    """

    name = "stdlib_calls"
    val_fraction = 0.1
    test_fraction = 0.25

    _: KW_ONLY
    num_classes: Annotated[int, Bound(least=2)] = 2000
    buckets: Annotated[int, Bound(least=2)] = 8192
    length: Count = 128
    folder: str | Path | None = None
    class_names: tuple[str, ...] = field(init=False)
    train: CallsDataset = field(init=False)
    val: CallsDataset = field(init=False)
    test: CallsDataset = field(init=False)

    def splits(self) -> tuple[CallsDataset, CallsDataset, CallsDataset]:
        """Read, choose the labels, and split."""
        functions = self._functions()
        counts = Counter(name for _, calls in functions for name in calls)
        if len(counts) < self.num_classes:
            raise ValueError(
                f"{self.name}: num_classes={self.num_classes} came, and the functions call {len(counts)} names; "
                "give at most as many."
            )
        # By the name where counts are equal, so that the choice is the same everywhere.
        chosen = sorted(counts, key=lambda name: (-counts[name], name))[: self.num_classes]
        self.class_names = tuple(chosen)
        place = {name: number for number, name in enumerate(chosen)}
        labelled = [(text, known) for text, calls in functions if (known := [place[n] for n in calls if n in place])]
        inputs = hashed_features([text for text, _ in labelled], buckets=self.buckets, length=self.length)
        labels = _bits([known for _, known in labelled], self.num_classes)
        # RandomState's stream is frozen for good; a Generator's may change between versions of numpy.
        order = np.random.RandomState(self.split_seed).permutation(len(labelled))
        test, val = round(self.test_fraction * len(order)), round(self.val_fraction * len(order))
        parts = [np.sort(part) for part in np.split(order, [test, test + val])]
        testing, validation, train = (CallsDataset(inputs[part], labels[part]) for part in parts)
        return train, validation, testing

    def fingerprint(self) -> str:
        """A hash of every sample of the three splits."""
        self.setup()
        return digest_of(self.train, self.val, self.test)

    def prepare_data(self) -> None:
        """Read the sources, unless a file holds what they say."""
        self._functions()

    def _functions(self) -> list[tuple[str, list[str]]]:
        """Each function's docstring and the names that it calls, sorted; from the file, if it is of these sources."""
        paths = source_files()
        content = hashlib.sha256(platform.python_version().encode())
        for path in paths:
            content.update(hashlib.sha256(path.read_bytes()).digest())
        folder = cache_folder() / "data" if self.folder is None else Path(self.folder).expanduser()
        file = folder / f"stdlib_calls_{content.hexdigest()[:16]}.json"
        try:
            return [(str(text), list(map(str, calls))) for text, calls in json.loads(file.read_text("utf-8"))]
        except (OSError, ValueError, TypeError):
            functions = read_calls(paths)
        with replacing(file, shared=True) as partial:
            partial.write_text(json.dumps(functions), "utf-8")
        return functions


def read_calls(paths: Sequence[Path]) -> list[tuple[str, list[str]]]:
    """Of every documented function the docstring, as one line, and the names that it calls, sorted.

    Example:
        >>> path = next(path for path in source_files() if path.name == "textwrap.py")
        >>> [calls for text, calls in read_calls([path]) if text.startswith("Collapse and truncate")]
        [['TextWrapper', 'fill', 'join', 'split', 'strip']]
    """
    read: dict[str, list[str]] = {}
    for path in paths:
        for function in documented_functions(path):
            text = " ".join(function.docstring.split())
            if len(text) >= _SHORTEST and function.calls:
                read.setdefault(text, sorted(function.calls))
    return list(read.items())


def _bits(labels: Sequence[Sequence[int]], classes: int) -> Bool[Tensor, "samples classes"]:
    bits = torch.zeros(len(labels), classes, dtype=torch.bool)
    for row, known in zip(bits, labels, strict=True):
        row[list(known)] = True
    return bits
