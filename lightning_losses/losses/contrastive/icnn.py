"""ICNN: a score of how well the nearest neighbours of each sample fit its class, as a loss."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lightning_losses.losses.kinds import ClassedEmbeddings, EmbeddingLoss
from lightning_losses.numerics.distances import squared_distances
from lightning_losses.numerics.settings import Count
from lightning_losses.numerics.vectors import refuse_powers

_EPS = 1e-7


class ICNN(EmbeddingLoss):
    """ICNN: a score of how well the nearest neighbours of each sample fit its class, as a loss.

    ``-log((λ + γ) / 2)``. γ is the share of a sample's k nearest others that are of its class; it has no gradient.
    ``λ = (1 - near + far) / 2``: near is the mean distance of those of its class, each relative to the nearest of
    another class among `searched` neighbours; far is the mean distance of those of another class, relative to the
    largest. Both are from 0 to 1. Distances are of embeddings as they are.

    Args:
        k: how many neighbours count, at least 1; of a batch that has less than three samples more, as many as it has
            less two count, and γ is 1.
        searched: among how many the nearest of another class is looked for, at least 1 and at least k; None is one
            more than k.

    Shapes:
        embeddings: [B, D], used as they are; target: [B] classes of any numbers.

    Returns:
        A scalar; 0 of fewer than three samples.

    Raises:
        ValueError: shapes or dtypes that do not fit; a target of probabilities; options out of range; on a CPU and
            under `debug`, embeddings whose squares are too large.

    Source:
        Mendez-Ruiz, Gonzalez-Zapata, Reyes-Amezcua, et al., 2023, "SuSana Distancia is all you need: Enforcing class
        separability in metric learning via two novel distance-based loss functions for few-shot image classification",
        arXiv:2305.09062, and its code maumruiz/FSL-Loss. That takes the nearest neighbour of a sample for the sample
        itself; here a sample is no neighbour of its own, also beside its copies.

    Example:
        >>> embeddings = torch.tensor([[0.0], [0.1], [5.0], [5.1], [0.2], [5.2]])
        >>> round(ICNN(k=2)(embeddings, torch.tensor([0, 0, 1, 1, 0, 1])).item(), 3)
        0.007
    """

    status = "confirmed"
    evidence = "maumruiz/FSL-Loss"

    k: Count = 4
    searched: Count | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.searched is not None and self.searched < self.k:
            raise ValueError(
                f"{self._identifier}: searched={self.searched} came with k={self.k}; give at least {self.k}."
            )

    def measure(self, given: ClassedEmbeddings) -> Float[Tensor, ""]:
        """Minus the logarithm of the score."""
        refuse_powers(self._identifier, 2, embeddings=given.embeddings)
        rows, samples = given.embeddings, given.kept.sum()
        columns = min(self.k + 1 if self.searched is None else self.searched, len(rows) - 1)
        if columns < 1:
            return rows.sum() * 0.0
        few = self.k + 2 >= samples
        k = torch.where(few, samples - 2, self.k)
        searched = k + 1 if self.searched is None else torch.full_like(k, self.searched)
        with torch.no_grad():
            order = squared_distances(rows, rows).masked_fill(~given.pairs, torch.inf)
        nearest = order.topk(columns, largest=False).indices
        rank = torch.arange(columns, device=rows.device)
        among = given.kept.unsqueeze(-1) & (rank < searched) & (rank < samples - 1)
        counted = among & (rank < k)
        alike = given.target[nearest] == given.target.unsqueeze(-1)
        far = ((rows[nearest] - rows.unsqueeze(1)).square().sum(dim=-1) + 1e-6).sqrt()
        share = self._share(counted & alike, k, samples, few, rows.dtype)
        score = (self._spread(far, counted, among, alike) + share) / 2
        # What is not a number stays so beside a condition.
        value = -score.clamp(min=_EPS).log()
        return torch.where(samples > 2, value, rows.sum() * 0.0)

    def _spread(
        self,
        far: Float[Tensor, "batch near"],
        counted: Bool[Tensor, "batch near"],
        among: Bool[Tensor, "batch near"],
        alike: Bool[Tensor, "batch near"],
    ) -> Float[Tensor, ""]:
        """λ."""
        other = far.masked_fill(~(among & ~alike), torch.inf).amin(dim=-1, keepdim=True)
        relative = far / (other + _EPS)
        largest = relative.masked_fill(~counted, 0.0).amax(dim=-1, keepdim=True).clamp(min=1.0)
        near = _mean_of_means(relative / largest, counted & alike)
        unlike = counted & ~alike
        apart = _mean_of_means(far / (far.masked_fill(~unlike, 0.0).amax() + _EPS), unlike)
        return (1 - near + torch.where(unlike.any(), apart, 1.0)) / 2

    def _share(
        self,
        of_class: Bool[Tensor, "batch near"],
        k: Tensor,
        samples: Tensor,
        few: Bool[Tensor, ""],
        dtype: torch.dtype,
    ) -> Float[Tensor, ""]:
        """γ."""
        return torch.where(few, 1.0, of_class.sum().to(dtype) / (k * samples).clamp(min=1))


def _mean_of_means(values: Float[Tensor, "batch near"], chosen: Bool[Tensor, "batch near"]) -> Float[Tensor, ""]:
    """The mean over samples of the mean over their chosen neighbours; samples without any do not count."""
    # Whole numbers would be divided in torch's default dtype.
    number = chosen.sum(dim=-1).to(values.dtype)
    means = (values * chosen).sum(dim=-1) / (number + _EPS)
    return means.sum() / ((number > 0).sum().to(values.dtype) + _EPS)
