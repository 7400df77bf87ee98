"""The standard library's docstrings as pairs: what a thing does in a sentence, and what is said of it beyond."""

import functools
import hashlib
from typing import NamedTuple

import lightning as L
import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_losses.data.loading import Batch, Loading
from lightning_losses.data.resumable import ResumableSampler
from lightning_losses.data.stdlib_text import docstrings, source_files
from lightning_losses.networks.hashed_text_encoder import hashed_features
from lightning_losses.numerics.checks import check_count, check_number

# Shorter ones say too little to be told apart.
_SHORTEST_QUERY, _SHORTEST_DOCUMENT = 15, 40


class Pair(NamedTuple):
    """A docstring's first paragraph, and the rest of it."""

    query: str
    document: str


class PairDataset(Dataset[Batch]):
    """Hashed features of pairs; asked for a list of positions, it answers with the whole batch.

    Args:
        pairs: the texts.
        index: where they stand among those of all splits.
        buckets: as `hashed_features` takes it.
        length: likewise.
    """

    def __init__(self, pairs: list[Pair], index: Int[Tensor, " pairs"], *, buckets: int, length: int) -> None:
        self.pairs, self.index = pairs, index
        self.queries, self.documents = (
            hashed_features(texts, buckets=buckets, length=length)
            for texts in ([pair.query for pair in pairs], [pair.document for pair in pairs])
        )

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, position: int) -> Batch:
        return {name: tensor[0] for name, tensor in self.__getitems__([position]).items()}

    def __getitems__(self, positions: list[int]) -> Batch:
        """The batch of the pairs at these positions."""
        chosen = torch.as_tensor(positions)
        return {
            "query": self.queries[chosen],
            "document": self.documents[chosen],
            "index": self.index[chosen],
        }


class DocstringPairs(L.LightningDataModule):
    """Queries and documents from the standard library's docstrings: the first paragraph, and the rest.

    Files are put in an order that `split_seed` fixes, and go to one split each. Texts that come twice are taken once.

    Args:
        batch_size: the pairs of one optimizer step, over all processes together.
        max_pairs: the most pairs of all splits together.
        buckets: as `hashed_features` takes it.
        length: likewise; the student's features of a text.
        val_fraction: the share of validation.
        test_fraction: the share of test.
        split_seed: fixes the splits.
        seed: fixes the order of the training pairs.
        num_workers, pin_memory: as `Loading` takes them.

    Attributes:
        pairs: all pairs, in the order of their `index`.
        train, val, test: the three splits, once `setup` has run.

    Raises:
        ValueError: a value out of range; a split without pairs; a batch size that the processes can't share.

    Example:
        >>> data = DocstringPairs(batch_size=4, max_pairs=60)
        >>> data.setup()
        >>> sorted(data.train.__getitems__([0, 1])), len(data.pairs)
        (['document', 'index', 'query'], 60)
    """

    name = "docstring_pairs"
    pairs: list[Pair]
    train: PairDataset
    val: PairDataset
    test: PairDataset

    def __init__(
        self,
        batch_size: int = 64,
        max_pairs: int = 2000,
        buckets: int = 8192,
        length: int = 256,
        val_fraction: float = 0.1,
        test_fraction: float = 0.25,
        split_seed: int = 0,
        seed: int = 0,
        num_workers: int = 0,
        pin_memory: bool | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("batch_size", batch_size), ("max_pairs", max_pairs), ("length", length)):
            check_count(self.name, name, value)
        check_number(self.name, "buckets", buckets, least=2)
        for name, share in (("val_fraction", val_fraction), ("test_fraction", test_fraction)):
            check_number(self.name, name, share, above=0, most=1)
        if val_fraction + test_fraction >= 1:
            raise ValueError(
                f"{self.name}: val_fraction={val_fraction} and test_fraction={test_fraction} came; give less than 1 "
                "together, the rest is for training."
            )
        self.batch_size = batch_size
        self.max_pairs = max_pairs
        self.buckets = buckets
        self.length = length
        self.val_fraction = val_fraction
        self.test_fraction = test_fraction
        self.split_seed = split_seed
        self.seed = seed
        self.loading = Loading(num_workers, pin_memory)

    def setup(self, stage: str | None = None) -> None:
        """Read and split; done once."""
        if hasattr(self, "train"):
            return
        files = _read_pairs(self.max_pairs, self.split_seed)
        total = sum(map(len, files))
        wanted = [
            total * s for s in (1 - self.val_fraction - self.test_fraction, self.val_fraction, self.test_fraction)
        ]
        parts: list[list[Pair]] = [[], [], []]
        for pairs in files:
            # To whichever lacks most.
            part = wanted.index(max(wanted))
            parts[part] += pairs
            wanted[part] -= len(pairs)
        if not all(parts):
            raise ValueError(f"{self.name}: max_pairs={self.max_pairs} leaves a split without pairs; give more.")
        self.pairs = [pair for part in parts for pair in part]
        ends = np.cumsum([len(part) for part in parts]).tolist()
        self.train, self.val, self.test = (
            PairDataset(part, torch.arange(end - len(part), end), buckets=self.buckets, length=self.length)
            for part, end in zip(parts, ends, strict=True)
        )

    def fingerprint(self) -> str:
        """A hash of the three splits."""
        self.setup()
        splits = [(len(split), split.pairs) for split in (self.train, self.val, self.test)]
        return hashlib.sha256(repr(splits).encode()).hexdigest()

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled batches, each process its share."""
        world, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        if self.batch_size % world:
            raise ValueError(
                f"{self.name}: batch_size={self.batch_size} came with {world} processes; give a multiple of {world}, "
                "each process takes its share."
            )
        # Also for one process, since Lightning tells this sampler the epoch: the order is that of (seed, epoch).
        sampler = ResumableSampler(self.train, world, rank, shuffle=True, seed=self.seed)
        return self.loading.loader(self.train, self.batch_size // world, sampler, trainer=self.trainer, drop_last=True)

    def val_dataloader(self) -> DataLoader[Batch]:
        """The validation split in order, whole on every process."""
        return self.loading.loader(self.val, len(self.val), trainer=self.trainer)


@functools.cache
def _read_pairs(max_pairs: int, split_seed: int) -> list[list[Pair]]:
    """Each file's pairs, in the split's order, `max_pairs` in all; read once by a process."""
    paths, seen = source_files(), set[str]()
    found: list[list[Pair]] = []
    left = max_pairs
    # RandomState's stream is frozen for good; a Generator's may change between versions of numpy.
    for position in np.random.RandomState(split_seed).permutation(len(paths)):
        pairs = []
        for text in docstrings(paths[position]):
            first, _, rest = text.partition("\n\n")
            pair = Pair(" ".join(first.split()), " ".join(rest.split()))
            long = len(pair.query) >= _SHORTEST_QUERY and len(pair.document) >= _SHORTEST_DOCUMENT
            if long and left and not seen.intersection(pair):
                seen.update(pair)
                pairs.append(pair)
                left -= 1
        found.append(pairs)
        if not left:
            break
    return found
