"""Batches of samples that lie close together, closer from epoch to epoch, so that a batch's negatives are hard."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.numerics.checks import check_count, check_floating
from lightning_losses.samplers.resumable import BatchPlanSampler

_WHO = "ngame_sampler"
CURRICULUM = (10, 20, 25, 50, 75, 100, 125, 150, 200)
# Of 2-means; each moves the border between two halves.
_STEPS = 8


class NGAMESampler(BatchPlanSampler):
    """Batches of samples that lie close together, closer from epoch to epoch, so that a batch's negatives are hard.

    Before the first epoch of the curriculum the order is random. From then on the samples are in clusters of equal
    size, within one, by their embeddings: of 2 samples at the first epoch of the curriculum, and of twice as many
    at each further one. An epoch shuffles the clusters and the samples of each, and cuts the row into batches; what
    does not fill one does not come. The order depends on seed, epoch and clusters alone, and every process yields
    its share of each batch.

    Where `wants_embeddings` says so, give those of all samples to `cluster`: `NGAMEClusters` does in a Lightning
    project. The same embeddings, seed and epoch give the same clusters; `state_dict` has them.

    Args:
        samples: n, the size of the data set.
        batch_size: of all processes together.
        num_replicas: the number of processes.
        rank: this process.
        seed: of all draws, with the epoch.
        curriculum: the epochs, from 0 and rising, at which clusters double.
        refresh_interval: after how many epochs samples are clustered anew, at least 1.

    Raises:
        ValueError: numbers out of their range; a curriculum that does not rise; fewer samples than a batch has;
            when an epoch begins, clusters that are missing.

    Source:
        Dahiya et al., 2023, "NGAME: Negative Mining-aware Mini-batching for Extreme Classification",
        arXiv:2207.04452, and its code Extreme-classification/ngame, whose curriculum and interval are the defaults.
        Its k-means draws from global random numbers, so that no value is compared.

    Example:
        >>> sampler = NGAMESampler(4, batch_size=2, curriculum=[0])
        >>> sampler.wants_embeddings
        True
        >>> sampler.cluster(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1], [0.1, 1.0]]))
        >>> sorted(sorted(batch) for batch in sampler.plan().tolist())
        [[0, 2], [1, 3]]
    """

    def __init__(
        self,
        samples: int,
        batch_size: int,
        num_replicas: int = 1,
        rank: int = 0,
        seed: int = 0,
        curriculum: Sequence[int] = CURRICULUM,
        refresh_interval: int = 5,
    ) -> None:
        super().__init__(_WHO, samples, batch_size, num_replicas, rank, seed)
        check_count(_WHO, "refresh_interval", refresh_interval)
        if not curriculum or list(curriculum) != sorted(set(curriculum)) or curriculum[0] < 0:
            raise ValueError(f"{_WHO}: curriculum={list(curriculum)} came; give rising epochs from 0 on, at least one.")
        if samples < batch_size:
            raise ValueError(f"{_WHO}: batches of {batch_size} came for {samples} samples; give smaller ones.")
        self.samples = samples
        self.curriculum = tuple(curriculum)
        self.refresh_interval = refresh_interval
        self.clusters: Int[Tensor, " samples"] | None = None
        self.clustered_at = -1

    @property
    def cluster_size(self) -> int:
        """How many samples a cluster of this epoch has, within one; 1 before the curriculum."""
        return min(2 ** sum(epoch <= self.epoch for epoch in self.curriculum), self.samples)

    @property
    def wants_embeddings(self) -> bool:
        """Whether this epoch needs clusters, and those that there are are too old, or of another size."""
        if self.cluster_size == 1:
            return False
        doubled = any(self.clustered_at < epoch <= self.epoch for epoch in self.curriculum)
        old = not 0 <= self.epoch - self.clustered_at < self.refresh_interval
        return self.clusters is None or doubled or old

    def cluster(self, embeddings: Float[Tensor, "samples dim"]) -> None:
        """Cluster the samples anew for this epoch.

        Raises:
            ValueError: embeddings that are not [samples, D], or not finite.
        """
        check_floating(_WHO, "embeddings", embeddings)
        if embeddings.ndim != 2 or len(embeddings) != self.samples or not bool(embeddings.isfinite().all()):
            raise ValueError(
                f"{_WHO}: embeddings of shape {list(embeddings.shape)} came for {self.samples} samples; give a finite "
                "vector of each."
            )
        number = max(self.samples // self.cluster_size, 1)
        self.clusters = balanced_clusters(embeddings, number, self.random())
        self.clustered_at = self.epoch

    def plan(self) -> Int[Tensor, "batches batch"]:
        """Cluster after cluster, cut into batches."""
        random = self.random()
        order = torch.randperm(self.samples, generator=random)
        if self.cluster_size > 1:
            if self.clusters is None:
                raise ValueError(
                    f"{_WHO}: epoch {self.epoch} is of the curriculum {list(self.curriculum)}, and no clusters are "
                    "known; add the callback NGAMEClusters, or give embeddings to `cluster`."
                )
            place = torch.randperm(int(self.clusters.max()) + 1, generator=random)
            # Stable, so that each cluster's samples stay in the random order.
            order = order[place[self.clusters[order]].argsort(stable=True)]
        batches = self.samples // self.batch_size
        return order[: batches * self.batch_size].view(batches, self.batch_size)

    def __len__(self) -> int:
        return self.samples // self.batch_size * self.batch_size // self.num_replicas

    def state_dict(self) -> dict[str, Any]:
        """The clusters, and the epoch that they are of."""
        return {"clusters": self.clusters, "clustered_at": self.clustered_at}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take the clusters of a checkpoint.

        Raises:
            ValueError: clusters of another number of samples.
        """
        clusters = state_dict["clusters"]
        if clusters is not None and len(clusters) != self.samples:
            raise ValueError(
                f"{_WHO}: clusters of {len(clusters)} samples came for {self.samples}; resume with the same data."
            )
        self.clusters, self.clustered_at = clusters, state_dict["clustered_at"]


@torch.no_grad()
def balanced_clusters(
    embeddings: Float[Tensor, "samples dim"], clusters: int, generator: torch.Generator
) -> Int[Tensor, " samples"]:
    """The cluster of each sample, from 0 on: as many clusters as asked for, of equal sizes within one.

    Halves are halved by 2-means of directions until there are enough: a half has the samples whose cosine with its mean
    is larger by most than that with the other's.

    Args:
        embeddings: [n, D].
        clusters: at least 1 and at most n.
        generator: of the two samples that each halving begins at.

    Raises:
        ValueError: a number of clusters out of its range.

    Example:
        >>> vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1], [0.1, 1.0], [1.0, 0.2]])
        >>> labels = balanced_clusters(vectors, 2, torch.Generator().manual_seed(0))
        >>> sorted(labels.bincount().tolist()), bool(labels[1] == labels[3] != labels[0])
        ([2, 3], True)
    """
    check_count("balanced_clusters", "clusters", clusters)
    if clusters > len(embeddings):
        raise ValueError(
            f"balanced_clusters: {clusters} clusters came for {len(embeddings)} samples; give at most as many."
        )
    unit = F.normalize(embeddings.detach().float().cpu(), dim=-1)
    labels = torch.empty(len(unit), dtype=torch.int64)
    waiting = [(torch.arange(len(unit)), 0, clusters)]
    while waiting:
        members, first, count = waiting.pop()
        if count == 1:
            labels[members] = first
            continue
        least, more = divmod(len(members), count)
        left = count // 2
        # The larger clusters are shared like the others, so that sizes differ by one at most.
        own = left * least + min(more, left)
        order = _along_border(unit[members], own, generator)
        waiting += [
            (members[order[:own]], first, left),
            (members[order[own:]], first + left, count - left),
        ]
    return labels


def _along_border(unit: Float[Tensor, "members dim"], own: int, generator: torch.Generator) -> Int[Tensor, " members"]:
    """The members in an order of which the first `own` are one half."""
    centres = unit[torch.randperm(len(unit), generator=generator)[:2]]
    order = torch.arange(len(unit))
    for _ in range(_STEPS):
        leaning = unit @ (centres[0] - centres[1])
        moved = leaning.argsort(descending=True, stable=True)
        if torch.equal(moved, order):
            break
        order = moved
        centres = F.normalize(torch.stack([unit[order[:own]].mean(dim=0), unit[order[own:]].mean(dim=0)]), dim=-1)
    return order
