"""UNPG: the batch's own pairs of unlike samples are negatives beside the class vectors."""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_losses.losses.cosines import warn_of_no_cosines
from lightning_losses.losses.kinds import RowLoss, index_rows
from lightning_losses.losses.margins.arcface import with_angular_margin
from lightning_losses.numerics.checks import check_floating
from lightning_losses.numerics.distances import unit_rows
from lightning_losses.numerics.probabilities import full_precision, log_total
from lightning_losses.numerics.reduction import reduce
from lightning_losses.numerics.rows import pick
from lightning_losses.numerics.settings import NonNegative, Positive


class UNPG(RowLoss):
    """UNPG: the batch's own pairs of unlike samples are negatives beside the class vectors.

    ``log(sum_k exp(s z'_k) + sum_p exp(s c_p)) - s z'_y`` with z' the cosines of `CosFace` or `ArcFace`, margin
    included, and c the cosines of the pairs of embeddings with different targets in the batch: one set for all samples.
    Pairs that are too easy, or hard as only wrong labels are, are left out as a box plot leaves out outliers: those
    outside of ``[Q1 - w (Q3 - Q1), Q3 + w (Q3 - Q1)]``, with the quartiles of the batch's pairs.

    Args:
        variant: whose margin, "cosface" or "arcface".
        margin: m, at least 0; in radians, and below π, for "arcface".
        scale: s, above 0.
        whisker: w, at least 0.

    Shapes:
        logits: [..., C] cosines of a `MarginHead`; target: [...] class indices; embeddings: [..., D], what the head's
        cosines are of, or the features before it; not normalised.

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; a target of probabilities; options out of range.

    Warns:
        UserWarning: logits that are no cosines.

    Source:
        Jung et al., 2022, "Unified Negative Pair Generation toward Well-discriminative Feature Space for Face
        Recognition", arXiv:2203.11593, and its code, Jung-Jun-Uk/UNPG, which adds the pairs once for every GPU.

    Example:
        >>> loss = UNPG(margin=0.0, scale=1.0)
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> round(loss(embeddings, torch.tensor([0, 1]), embeddings).item(), 4)
        0.5514
    """

    batch_coupled = True
    status = "confirmed"
    evidence = "Jung-Jun-Uk/UNPG"

    variant: Literal["cosface", "arcface"] = "cosface"
    margin: NonNegative = 0.5
    scale: Positive = 64.0
    whisker: NonNegative = 1.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.variant == "arcface" and self.margin >= torch.pi:
            raise ValueError(
                f"{self._identifier}: margin={self.margin!r} came with variant='arcface'; give radians below 3.14159."
            )

    def forward(
        self,
        logits: Float[Tensor, "*rows classes"],
        target: Int[Tensor, "*rows"],
        embeddings: Float[Tensor, "*rows dim"],
    ) -> Float[Tensor, "..."]:
        """Check, evaluate and reduce; see the class."""
        rows = index_rows(self._identifier, logits, target, self.ignore_index)
        check_floating(self._identifier, "embeddings", embeddings)
        if embeddings.ndim < 2 or embeddings.shape[:-1] != rows.target.shape or embeddings.shape[-1] == 0:
            raise ValueError(
                f"{self._identifier}: embeddings of shape {list(embeddings.shape)} came with logits of shape "
                f"{list(logits.shape)}; give a vector for each row, [..., D] with D of at least 1."
            )
        if rows.target.numel() == 0:
            return reduce(rows.logits.sum(dim=-1), self.reduction)
        warn_of_no_cosines(self, rows.logits)
        kept = torch.ones_like(rows.target, dtype=torch.bool) if rows.kept is None else rows.kept
        vectors = full_precision(embeddings).masked_fill(~kept.unsqueeze(-1), 0.0).flatten(0, -2)
        with torch.autocast(vectors.device.type, enabled=False):
            directions = unit_rows(vectors)
            cosines = directions @ directions.T
        pairs = negative_pairs(cosines.detach(), rows.target.flatten(), kept.flatten(), self.whisker)
        shared = log_total((self.scale * cosines).masked_fill(~pairs, -torch.inf).flatten().unsqueeze(0))
        own = pick(rows.logits, rows.target)
        own = own - self.margin if self.variant == "cosface" else with_angular_margin(own, self.margin)
        scores = self.scale * rows.logits.scatter(-1, rows.target.unsqueeze(-1), own.unsqueeze(-1))
        total = torch.logaddexp(torch.logsumexp(scores, dim=-1), shared.squeeze().to(scores))
        return reduce(total - self.scale * own, self.reduction, rows.kept)


def negative_pairs(
    cosines: Float[Tensor, "batch batch"],
    target: Int[Tensor, " batch"],
    kept: Bool[Tensor, " batch"],
    whisker: float,
) -> Bool[Tensor, "batch batch"]:
    """Which pairs count, each once: of different targets, and no outliers among those; see `UNPG`."""
    unlike = (target.unsqueeze(0) != target.unsqueeze(1)) & kept.unsqueeze(0) & kept.unsqueeze(1)
    unlike = unlike.triu(diagonal=1)
    ordered = cosines.masked_fill(~unlike, torch.inf).flatten().sort().values
    number = unlike.sum()
    lower, upper = (ordered.gather(0, (number * part // 4).unsqueeze(0)) for part in (1, 3))
    reach = whisker * (upper - lower)
    # What is not a number is no outlier: the value shows it.
    return unlike & ~((cosines < lower - reach) | (cosines > upper + reach))
