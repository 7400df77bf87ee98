"""Batches whose samples all have different pseudo-labels, so that fewer negatives are of one class unknown to all."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.numerics.checks import check_count, check_floating
from lightning_losses.numerics.probabilities import full_precision
from lightning_losses.numerics.vectors import at_unit_size
from lightning_losses.samplers.resumable import BatchPlanSampler, labels_of_samples, samples_by_label

_WHO = "disjoint_pseudo_label_sampler"
# Lloyd's steps; more moved hardly a sample of the data sets here.
_STEPS = 20


class DisjointPseudoLabelSampler(BatchPlanSampler):
    """Batches whose samples all have different pseudo-labels, so that fewer negatives are of one class unknown to all.

    Each epoch shuffles every cluster, and takes one sample of each of the `batch_size` largest clusters that are left,
    until fewer are left; what is left then does not come in this epoch. `coverage` is the share of the samples that
    come: it falls fast where there are as few clusters as a batch has samples, so twice as many are a good number.

    Args:
        pseudo_labels: [n] the cluster of each sample, as `pseudo_labels` finds them.
        batch_size: of all processes together, so that labels differ over the gathered batch.
        num_replicas: the number of processes.
        rank: this process.
        seed: of all draws, with the epoch.

    Attributes:
        coverage: the share of the samples that come in an epoch.

    Raises:
        ValueError: several numbers for a sample; fewer clusters than a batch has samples.

    Source:
        Chakraborty, Gosthipaty, Paul, 2020, "G-SimCLR: Self-Supervised Contrastive Learning with Guided Projection via
        Pseudo Labelling", arXiv:2009.12007, which has as many clusters as a batch has samples.

    Example:
        >>> sampler = DisjointPseudoLabelSampler([0, 0, 0, 1, 1, 2, 2], batch_size=2)
        >>> len(sampler), round(sampler.coverage, 3)
        (6, 0.857)
    """

    def __init__(
        self,
        pseudo_labels: Sequence[int] | Int[Tensor, " n"],
        batch_size: int,
        num_replicas: int = 1,
        rank: int = 0,
        seed: int = 0,
    ) -> None:
        labels = labels_of_samples(_WHO, "pseudo_labels", pseudo_labels)
        super().__init__(_WHO, len(labels), batch_size, num_replicas, rank, seed)
        self.members = list(samples_by_label(labels).values())
        if len(self.members) < batch_size:
            raise ValueError(
                f"{_WHO}: batches of {batch_size} came for {len(self.members)} pseudo-labels; give twice as many "
                "pseudo-labels, or smaller batches."
            )
        # Ties decide who comes, not how many.
        self._samples = len(self.plan()) * batch_size
        self.coverage = self._samples / len(labels)

    def plan(self) -> Int[Tensor, "batches batch"]:
        """Of the largest clusters that are left, the next samples."""
        random = self.random()
        order = torch.cat([members[torch.randperm(len(members), generator=random)] for members in self.members])
        left = torch.tensor([len(members) for members in self.members])
        ends = left.cumsum(dim=0)
        planned = []
        while int((left > 0).sum()) >= self.batch_size:
            chances = left + torch.rand(len(left), generator=random, dtype=torch.float64)
            largest = chances.topk(self.batch_size).indices
            planned.append(order[ends[largest] - left[largest]])
            left[largest] -= 1
        return torch.stack(planned)

    def __len__(self) -> int:
        return self._samples // self.num_replicas


@torch.no_grad()
def pseudo_labels(features: Float[Tensor, "samples dim"], clusters: int, seed: int = 0) -> Int[Tensor, " samples"]:
    """The cluster of each sample by k-means, which begins at samples that are drawn.

    Args:
        features: [n, D] of an encoder, or the inputs themselves, flattened.
        clusters: k, at most n; twice the batch size or more. Clusters that lose all their samples are left out.
        seed: of the samples that it begins at.

    Raises:
        ValueError: features of another shape; more clusters than samples.

    Example:
        >>> labels = pseudo_labels(torch.tensor([[0.0], [0.1], [5.0], [5.1]]), 2)
        >>> bool(labels[0] == labels[1]) and bool(labels[2] == labels[3]) and bool(labels[0] != labels[2])
        True
    """
    check_floating("pseudo_labels", "features", features)
    check_count("pseudo_labels", "clusters", clusters)
    if not bool(features.isfinite().all()):
        raise ValueError("pseudo_labels: features hold NaN or infinity; give finite ones.")
    if features.ndim != 2 or len(features) < clusters:
        raise ValueError(
            f"pseudo_labels: features of shape {list(features.shape)} came for {clusters} clusters; give vectors "
            "[n, D] of at least as many samples."
        )
    # Far from 0, or of large numbers, the squares would hide the distances.
    features = full_precision(features)
    features = at_unit_size(features - features.mean(dim=0), (0, 1))
    start = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed))[:clusters]
    centres = features[start]
    labels = torch.zeros(len(features), dtype=torch.int64)
    for _ in range(_STEPS):
        # Each sample's own length is the same to every centre.
        labels = (centres.square().sum(dim=1) - 2 * features @ centres.T).argmin(dim=1)
        sizes = labels.bincount(minlength=clusters).unsqueeze(1)
        means = torch.zeros_like(centres).index_add_(0, labels, features) / sizes.clamp(min=1)
        centres = torch.where(sizes > 0, means, centres)
    return labels
