"""Adaptive multi-head contrast: several projections of two views, with a temperature that each pair learns."""

from dataclasses import field

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lightning_losses.losses.base import Loss
from lightning_losses.losses.distillation.features.embedding import embedded, linear_embedding
from lightning_losses.numerics.distances import unit_rows
from lightning_losses.numerics.probabilities import full_precision
from lightning_losses.numerics.settings import Count, Positive, Weight
from lightning_losses.numerics.vectors import alike_vectors


class AMCL(Loss):
    """Adaptive multi-head contrast: several projections of two views, with a temperature that each pair learns.

    ``sum_h NTXent(s_h / τ_h) + β mean((d / 2) log τ + 1 / τ)``. Each head projects both views to d numbers; s_h are the
    cosines of the 2 B projections, and each is to find its other view among all others. The temperature of a pair is
    ``τ_ij = low + (high - low) sigmoid(φ(z_i, z_j))``, with a small network φ that the heads share. The second term has
    its smallest value at τ = 2 / d, so that temperatures neither vanish nor grow. Heads and φ belong to the loss, and
    are trained and saved with it.

    Memory is that of H (2 B)² `hidden` numbers.

    Args:
        heads: H, at least 1.
        head_dim: d, at least 1.
        hidden: the width of φ, at least 1.
        regularization: β, at least 0.
        least_temperature: low, above 0.
        most_temperature: high, above 0 and at least low.
        feature_dim: D, at least 1; None takes it from the first batch.

    Shapes:
        embeddings: [B, D]; embeddings_b: [B, D], of the same samples.

    Returns:
        A scalar.

    Raises:
        ValueError: shapes or dtypes that do not fit; options out of range.

    Source:
        After Wang, Koniusz, Gedeon, Zheng, 2023, "Adaptive Multi-head Contrastive Learning", arXiv:2310.05615. The
        formula is rebuilt from descriptions of the paper, so that details of it may differ.

    Example:
        >>> loss = AMCL(heads=2, head_dim=4)
        >>> bool(loss(torch.randn(3, 5), torch.randn(3, 5)) > 0)
        True
    """

    batch_coupled = True
    status = "experimental"
    evidence = "no golden values: the formula is rebuilt; with one head and one temperature it is NT-Xent, in its tests"

    heads: Count = 3
    head_dim: Count = 64
    hidden: Count = 16
    regularization: Weight = 0.1
    least_temperature: Positive = 1e-5
    most_temperature: Positive = 2.0
    feature_dim: Count | None = None
    projections: nn.Linear = field(init=False)
    of_first: nn.Linear = field(init=False)
    of_second: nn.Linear = field(init=False)
    to_temperature: nn.Linear = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.most_temperature < self.least_temperature:
            raise ValueError(
                f"{self._identifier}: most_temperature={self.most_temperature} came with least_temperature="
                f"{self.least_temperature}; give at least as much."
            )
        self.projections = linear_embedding(self.feature_dim, self.heads * self.head_dim)
        self.of_first = nn.Linear(self.head_dim, self.hidden)
        self.of_second = nn.Linear(self.head_dim, self.hidden, bias=False)
        self.to_temperature = nn.Linear(self.hidden, 1)

    def forward(
        self, embeddings: Float[Tensor, "batch dim"], embeddings_b: Float[Tensor, "batch dim"]
    ) -> Float[Tensor, ""]:
        """Check, project and evaluate; the class documents what."""
        views = alike_vectors(self._identifier, embeddings=embeddings, embeddings_b=embeddings_b)
        with torch.autocast(embeddings.device.type, enabled=False):
            projected = [
                full_precision(embedded(self._identifier, "embeddings", view, self.projections)) for view in views
            ]
            if len(embeddings) == 0:
                return sum(view.sum() for view in projected) + torch.zeros_like(projected[0].sum())
            of_heads = torch.cat(projected).view(-1, self.heads, self.head_dim).unbind(dim=1)
            parts = [self._of_head(unit_rows(head)) for head in of_heads]
            contrast, penalty = (torch.stack(column) for column in zip(*parts, strict=True))
            return contrast.sum() + self.regularization * penalty.mean()

    def _of_head(self, unit: Float[Tensor, "both dim"]) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """NT-Xent, and the mean of the regulariser over pairs."""
        own = unit.to(self.of_first.weight.dtype)
        pairs = torch.relu(self.of_first(own).unsqueeze(1) + self.of_second(own).unsqueeze(0))
        # Of rows, since FSDP2 takes no layer's output that is a view; in half precision 1 / τ would overflow.
        share = torch.sigmoid(full_precision(self.to_temperature(pairs.flatten(0, 1))).view(len(unit), len(unit)))
        temperature = self.least_temperature + (self.most_temperature - self.least_temperature) * share
        place = torch.arange(len(unit), device=unit.device)
        itself = place.unsqueeze(0) == place.unsqueeze(1)
        scores = (unit @ unit.mT / temperature).masked_fill(itself, -torch.inf)
        contrast = F.cross_entropy(scores, (place + len(unit) // 2) % len(unit))
        penalty = (self.head_dim / 2 * temperature.log() + 1 / temperature).masked_fill(itself, 0.0)
        return contrast, penalty.sum() / (len(unit) * (len(unit) - 1))
