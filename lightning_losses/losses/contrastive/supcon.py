"""Supervised contrastive loss: a sample is near to all others of its class, among all of the batch."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.losses.kinds import ClassedEmbeddings, EmbeddingLoss
from lightning_losses.numerics.distances import unit_rows
from lightning_losses.numerics.rows import check_labels
from lightning_losses.numerics.settings import Temperature
from lightning_losses.numerics.vectors import alike_vectors
from lightning_losses.similarities import similarity_logsumexp


class SupCon(EmbeddingLoss):
    """Supervised contrastive loss: a sample is near to all others of its class, among all of the batch.

    ``(τ / τ_b) (lse_i - mean_{p in P_i} s_ip / τ)``, averaged over the samples with a positive: s are cosines, P_i the
    other samples, or views, of i's class, and lse_i the logsumexp of ``s_ij / τ`` over all j but i. The matrix of
    similarities is not held; the mean over positives needs the sum of each class's vectors alone.

    Args:
        temperature: τ, above 0.
        base_temperature: τ_b, above 0; equal to τ it makes the factor 1, as in pytorch-metric-learning.
        ignore_index: samples with this target are ignored, and nothing is compared with them.

    Shapes:
        embeddings: [B, D]; target: [B] classes of any numbers; embeddings_b (optional): [B, D], a second view of the
        same samples.

    Returns:
        A scalar; 0 without a positive.

    Raises:
        ValueError: shapes or dtypes that do not fit; a target of probabilities; options out of range.

    Source:
        Khosla et al., 2020, "Supervised Contrastive Learning", arXiv:2004.11362, and its code HobbitLong/SupContrast.
        There an anchor without a positive gives NaN; here it is left out of the mean.

    Example:
        >>> embeddings = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> round(SupCon(temperature=1.0, base_temperature=1.0)(embeddings, torch.tensor([0, 0, 1])).item(), 4)
        0.3133
    """

    status = "confirmed"
    evidence = "HobbitLong/SupContrast"

    temperature: Temperature = 0.07
    base_temperature: Temperature = 0.07

    def forward(
        self,
        embeddings: Float[Tensor, "batch dim"],
        target: Int[Tensor, " batch"],
        embeddings_b: Float[Tensor, "batch dim"] | None = None,
    ) -> Float[Tensor, ""]:
        """Check and evaluate; see the class."""
        if embeddings_b is None:
            return super().forward(embeddings, target)
        views = alike_vectors(self._identifier, embeddings=embeddings, embeddings_b=embeddings_b)
        check_labels(self._identifier, target, len(embeddings), self.ignore_index)
        return super().forward(torch.cat(views), torch.cat([target, target]))

    def measure(self, given: ClassedEmbeddings) -> Float[Tensor, ""]:
        """The mean over samples with a positive."""
        unit, scale = unit_rows(given.embeddings), 1 / self.temperature
        lse = similarity_logsumexp(unit, scale=scale, row_kept=given.kept)
        # The first place of each class among the sorted ones is its number.
        target = given.target.contiguous()
        number = torch.searchsorted(target.sort().values, target)
        sums = torch.zeros_like(unit).index_add(0, number, unit)
        others = torch.zeros_like(number).index_add(0, number, torch.ones_like(number))[number] - 1
        # Without the sample's own vector, whose product with itself is the largest.
        of_positives = scale * (unit * (sums[number] - unit)).sum(dim=-1) / others.clamp(min=1)
        counts = given.kept & (others > 0)
        each = (lse - of_positives).masked_fill(~counts, 0.0)
        return self.temperature / self.base_temperature * each.sum() / counts.sum().clamp(min=1)
