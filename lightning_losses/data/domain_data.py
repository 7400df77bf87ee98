"""Data in domains, one of which is left out of training and is the test split."""

from dataclasses import KW_ONLY, field
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from lightning_losses.data.image_data import ImageData, ImageDataset, Images
from lightning_losses.data.loading import Batch
from lightning_losses.data.splits import Split, stratified_order
from lightning_losses.numerics.settings import Whole
from lightning_losses.samplers.domain_balanced_sampler import DomainBalancedSampler
from lightning_losses.samplers.resumable import BatchPlanSampler

# What decides a batch by itself, or makes views of samples that would forget their domain.
_REFUSED = ("samples_per_class", "pseudo_labels", "augmentation", "unseen_classes")


class DomainImages(NamedTuple):
    """The raw data: [n, channels, ...] numbers, [n] class indices, and [n] the domain of each sample, from 0 on."""

    pixels: NDArray[np.float32]
    target: NDArray[np.int64]
    domain: NDArray[np.int64]


class DomainDataset(ImageDataset):
    """Images in memory, their classes and their domains.

    Example:
        >>> dataset = DomainDataset(torch.zeros(3, 1, 2, 2), torch.tensor([0, 1, 0]), torch.tensor([0, 0, 1]))
        >>> dataset.__getitems__([2, 1])["domain"].tolist()
        [1, 0]
    """

    def __init__(
        self, inputs: Float[Tensor, "samples ..."], target: Int[Tensor, " samples"], domain: Int[Tensor, " samples"]
    ) -> None:
        super().__init__(inputs, target)
        self.domain = domain

    def __getitems__(self, positions: list[int]) -> Batch:
        """The batch of the samples at these positions."""
        return {**super().__getitems__(positions), "domain": self.domain[torch.as_tensor(positions)]}


class DomainData(ImageData):
    """Base of data in domains: batches ``{"inputs", "target", "index", "domain"}``, and one domain is left out.

    All samples of the domain that is left out are the test split. Validation samples are a share of each class of each
    other domain. `domain` counts the domains of training from 0 on in their order; that of the test split has the
    number after them. Training batches hold equally many samples of each domain (`DomainBalancedSampler`). Inputs are
    normalised by the training samples of all their domains.

    A subclass reads its samples in `read_domains`, and says in `domain_names` what its domains are.

    Args:
        test_domain: the number of the domain that is left out, in the order of `domain_names`.
        num_domains: how many domains are trained on, all but one, and no other number; configurations give it to
            losses.
        batch_size: a multiple of `num_domains`.
        val_fraction: the share of the training domains' samples for validation; `test_fraction` has no effect.
        num_classes, ...: see `ImageData`. What decides batches, `augmentation` and `unseen_classes` are refused.

    Raises:
        ValueError: a domain that there is not; a number of domains that is not that of the data; a batch size that the
            domains can't share evenly; a split, or a domain of training, without a sample.
    """

    _: KW_ONLY
    test_domain: Whole = 0
    num_domains: int = 0
    train: DomainDataset = field(init=False)
    val: DomainDataset = field(init=False)
    test: DomainDataset = field(init=False)
    _domain: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        count = len(self.domain_names)
        if count > 1 and self.test_domain >= count:
            raise ValueError(f"{self.name}: test_domain={self.test_domain} came; give 0 to {count - 1}.")
        if count < 2 or self.num_domains != count - 1:
            raise ValueError(
                f"{self.name}: num_domains={self.num_domains} came with {count} domains; give two domains or more, and "
                "one fewer as num_domains: one is left out."
            )
        if self.batch_size % self.num_domains:
            raise ValueError(
                f"{self.name}: batch_size={self.batch_size} came with num_domains={self.num_domains}; give a multiple "
                "of it, each domain has an equal share of a batch."
            )
        if given := [name for name in _REFUSED if getattr(self, name)]:
            raise ValueError(f"{self.name}: {given[0]} came; data in domains can't have it.")

    @property
    def domain_names(self) -> tuple[str, ...]:
        """What the domains are, the one that is left out among them."""
        raise NotImplementedError

    def read_domains(self) -> DomainImages:
        """Read the samples of all domains."""
        raise NotImplementedError

    def read(self) -> Images:
        """The samples of all domains."""
        images = self.read_domains()
        # The domain that is left out is numbered last.
        order = [*(number for number in range(self.num_domains + 1) if number != self.test_domain), self.test_domain]
        self._domain = np.argsort(order)[images.domain]
        return Images(images.pixels, images.target)

    def _split(self, target: NDArray[np.int64]) -> Split:
        seen = np.flatnonzero(self._domain < self.num_domains)
        order = seen[stratified_order(self._domain[seen] * self.num_classes + target[seen], self.split_seed)]
        val = round(len(order) * self.val_fraction)
        split = Split(np.sort(order[val:]), np.sort(order[:val]), np.flatnonzero(self._domain == self.num_domains))
        if empty := [part for part, positions in zip(split._fields, split, strict=True) if not len(positions)]:
            raise ValueError(
                f"{self.name}: {len(target)} samples of {self.num_domains + 1} domains came with val_fraction="
                f"{self.val_fraction:g}, which leaves none for {empty[0]}; give more."
            )
        return split

    def dataset_of(
        self, inputs: Float[Tensor, "samples ..."], target: Int[Tensor, " samples"], positions: NDArray[np.int64]
    ) -> DomainDataset:
        """A split, or part of it, with its samples' domains."""
        return DomainDataset(inputs, target, torch.from_numpy(self._domain[positions]))

    def planned(self, batch_size: int, world: int, rank: int) -> BatchPlanSampler:
        """Batches with equally many samples of each domain."""
        if missing := set(range(self.num_domains)) - set(self.train.domain.tolist()):
            raise ValueError(
                f"{self.name}: no training sample of domain {min(missing)} is left of {len(self.train)}; keep more of "
                "them (train_rows, long_tail)."
            )
        return DomainBalancedSampler(self.train.domain, batch_size, world, rank, self.seed)


def spread_over_domains(target: NDArray[np.int64], domains: int, seed: int) -> NDArray[np.int64]:
    """A domain for each sample, so that every domain has as many of each class, within one.

    Args:
        target: [n] class indices.
        domains: their number.
        seed: the same seed gives the same domains on every machine.

    Example:
        >>> target = np.repeat([0, 1], 4)
        >>> domain = spread_over_domains(target, domains=2, seed=0)
        >>> np.bincount(2 * domain + target).tolist()
        [2, 2, 2, 2]
    """
    random = np.random.RandomState(seed)
    domain = np.empty(len(target), dtype=np.int64)
    begin = 0
    for label in np.unique(target):
        positions = random.permutation(np.flatnonzero(target == label))
        # Where one class ends, the next goes on, so that the first domains don't get all the surplus.
        domain[positions] = (begin + np.arange(len(positions))) % domains
        begin += len(positions)
    return domain
