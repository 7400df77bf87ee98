"""Batches with equally many samples of each class that they hold, as losses of pairs and triplets need them."""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from lightning_losses.numerics.checks import check_count
from lightning_losses.samplers.resumable import BatchPlanSampler, labels_of_samples, samples_by_label


class ClassBalancedSampler(BatchPlanSampler):
    """Batches with equally many samples of each class that they hold, as losses of pairs and triplets need them.

    Each batch draws its classes anew, all with the same chance, however many samples they have. A class's samples come
    in a shuffled order, and in another one when all have come; a class with fewer samples than a batch takes of it has
    some of them twice in it. An epoch has as many batches as the data set's samples fill. The order depends on the
    seed and the epoch alone, and every process yields its share of each batch.

    Args:
        target: [n] the class of each sample, any whole numbers; samples of class -100 have no label, and never come.
        batch_size: of all processes together; a multiple of `samples_per_class`.
        samples_per_class: how many samples of each of its classes a batch holds.
        num_replicas: the number of processes.
        rank: this process.
        seed: of all draws, with the epoch.

    Raises:
        ValueError: several numbers for a sample; sizes that do not divide each other; fewer classes than a batch holds.

    Source:
        Hermans, Beyer, Leibe, 2017, "In Defense of the Triplet Loss for Person Re-Identification", arXiv:1703.07737.

    Example:
        >>> target = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 2, 2])
        >>> sampler = ClassBalancedSampler(target, batch_size=4, samples_per_class=2)
        >>> [len(set(target[list(sampler)[begin : begin + 4]].tolist())) for begin in (0, 4)]
        [2, 2]
    """

    def __init__(
        self,
        target: Sequence[int] | Int[Tensor, " n"],
        batch_size: int,
        samples_per_class: int,
        num_replicas: int = 1,
        rank: int = 0,
        seed: int = 0,
    ) -> None:
        name = "class_balanced_sampler"
        labels = labels_of_samples(name, "target", target)
        super().__init__(name, len(labels), batch_size, num_replicas, rank, seed)
        check_count(name, "samples_per_class", samples_per_class)
        if batch_size % samples_per_class:
            raise ValueError(
                f"{name}: batch_size={batch_size} came with samples_per_class={samples_per_class}; give a multiple of "
                "it."
            )
        self.samples_per_class = samples_per_class
        self.members = [members for label, members in samples_by_label(labels).items() if label != -100]
        self.classes_per_batch = batch_size // samples_per_class
        if len(self.members) < self.classes_per_batch:
            raise ValueError(
                f"{name}: batches of {batch_size} with {samples_per_class} samples of a class hold "
                f"{self.classes_per_batch} classes, and {len(self.members)} came; give smaller batches, or more "
                "samples of a class."
            )
        self.batches = max(sum(map(len, self.members)) // batch_size, 1)

    def plan(self) -> Int[Tensor, "batches batch"]:
        """Classes of each batch, and their next samples."""
        random = self.random()
        drawn = [torch.randperm(len(self.members), generator=random) for _ in range(self.batches)]
        classes = torch.stack(drawn)[:, : self.classes_per_batch]
        planned = torch.empty((classes.numel(), self.samples_per_class), dtype=torch.int64)
        places = samples_by_label(classes.flatten())
        for number, members in enumerate(self.members):
            own = places.get(number, members[:0])
            wanted = len(own) * self.samples_per_class
            order = members[:0]
            while len(order) < wanted:
                shuffled = members[torch.randperm(len(members), generator=random)]
                # Where a batch goes on into another order, the samples that it has already come later.
                if not (begun := len(order) % self.samples_per_class):
                    order = torch.cat([order, shuffled])
                    continue
                had = torch.isin(shuffled, order[len(order) - begun :])
                first = shuffled[~had][: self.samples_per_class - begun]
                order = torch.cat([order, first, shuffled[~torch.isin(shuffled, first)]])
            planned[own] = order[:wanted].view(-1, self.samples_per_class)
        return planned.view(self.batches, -1)

    def __len__(self) -> int:
        return self.batches * self.batch_size // self.num_replicas
