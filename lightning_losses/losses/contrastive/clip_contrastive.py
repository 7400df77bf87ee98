"""CLIP's symmetric contrast: each vector picks its partner out of the other set, in both directions."""

import math
from dataclasses import field
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lightning_losses.losses.base import Loss
from lightning_losses.losses.contrastive.views import unit_views
from lightning_losses.numerics.rows import check_labels
from lightning_losses.numerics.settings import Temperature
from lightning_losses.numerics.vectors import alike_vectors
from lightning_losses.parallel.processes import whole_parameter
from lightning_losses.similarities import partner_cross_entropy

# The authors clip the scale there.
_MOST_SCALE = 100.0


class ClipContrastive(Loss):
    """CLIP's contrastive loss (InfoNCE): each vector picks its partner out of those of the other set.

    ``mean_i (log sum_j exp(s_ij / τ) - s_ii / τ)``, and the same with the roles changed, averaged; s are the cosines of
    `embeddings` and `embeddings_b`, such as those of queries and documents. Both directions come of one matrix, which
    is not held.

    Args:
        temperature: τ, above 0; where it is learned, its first value, at least 0.01.
        learned: whether τ is trained with the network; it is used as at least 0.01, the bound of the authors' code.
        direction: "both", or "forward": `embeddings` alone pick.
        ignore_index: samples with this target neither pick nor are picked.

    Shapes:
        embeddings: [B, D]; embeddings_b: [B, D]; target (optional): [B], samples of one number, such as copies of one
        document, are no negatives of each other; queue (optional): [Q, D], constant, further negatives of
        `embeddings`.

    Returns:
        A scalar; 0 for a batch of one.

    Raises:
        ValueError: shapes or dtypes that do not fit; options out of range.

    Source:
        Radford et al., 2021, "Learning Transferable Visual Models From Natural Language Supervision",
        arXiv:2103.00020; van den Oord, Li, Vinyals, 2018, arXiv:1807.03748, for one direction. The authors clip the
        learned scale after each step; here it is clipped in use, and its gradient goes on.

    Example:
        >>> round(ClipContrastive()(torch.ones(3, 2), torch.ones(3, 2)).item(), 4)  # log B
        1.0986
    """

    batch_coupled = True
    status = "paper"
    evidence = "values of Andron00e/SparseCBM, whose criterion is CLIP's; not the authors' code"

    temperature: Temperature = 0.07
    learned: bool = False
    direction: Literal["both", "forward"] = "both"
    ignore_index: int = field(default=-100, kw_only=True)
    log_scale: nn.Parameter | None = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.learned and self.temperature < 1 / _MOST_SCALE:
            raise ValueError(
                f"{self._identifier}: temperature={self.temperature} came with learned=True, which keeps it at 0.01 or "
                "more; give a first value of at least 0.01, or learned=False."
            )
        self.log_scale = nn.Parameter(torch.tensor([-math.log(self.temperature)])) if self.learned else None

    def forward(
        self,
        embeddings: Float[Tensor, "batch dim"],
        embeddings_b: Float[Tensor, "batch dim"],
        target: Int[Tensor, " batch"] | None = None,
        queue: Float[Tensor, "negatives dim"] | None = None,
    ) -> Float[Tensor, ""]:
        """Check and evaluate; see the class."""
        kept = None
        if target is not None:
            alike_vectors(self._identifier, embeddings=embeddings, embeddings_b=embeddings_b)
            kept = check_labels(self._identifier, target, len(embeddings), self.ignore_index)
        a, b, negatives = unit_views(self._identifier, embeddings, embeddings_b, queue, kept)
        if len(a) == 0:
            return a.sum() + b.sum()
        with torch.autocast(a.device.type, enabled=False):
            both = self.direction == "both"
            value = partner_cross_entropy(
                a, b, scale=self._scale(a), target=target, kept=kept, negatives=negatives, both=both
            )
            return value / 2 if both else value

    def _scale(self, like: Tensor) -> float | Float[Tensor, ""]:
        if self.log_scale is None:
            return 1 / self.temperature
        log = whole_parameter(self.log_scale)[0].to(like.dtype)
        # Where the bound holds, the gradient goes on, so that the scale finds back.
        return (log + (log.clamp(max=math.log(_MOST_SCALE)) - log).detach()).exp()
