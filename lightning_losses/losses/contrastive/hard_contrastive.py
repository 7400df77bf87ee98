"""Hard contrastive loss: each vector picks its partner among its most similar negatives alone."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.losses.contrastive.views import unit_views
from lightning_losses.numerics.settings import Count, NonNegative, Temperature
from lightning_losses.similarities import partner_cross_entropy


class HardContrastive(Loss):
    """Hard contrastive loss: each vector picks its partner among its most similar negatives alone.

    ``-log(exp(s_ii / τ) / (exp(s_ii / τ) + sum_k exp(s_ik / τ)))``, k over the `hardest` negatives of i, with s the
    cosines of `embeddings` with `embeddings_b` and the queue, averaged over i. The "simple" form, to compare with, is
    ``-s_ii + λ sum_{j≠i} s_ij``, which pushes all negatives alike.

    Args:
        temperature: τ, above 0.
        hardest: the number of negatives of each vector, at least 1; None takes all, which is InfoNCE.
        form: "hard" or "simple".
        weight_of_negatives: λ of the simple form, at least 0.

    Shapes:
        embeddings: [B, D]; embeddings_b: [B, D]; queue (optional): [Q, D], constant, further negatives.

    Returns:
        A scalar; the hard form is 0 for a batch of one without a queue.

    Raises:
        ValueError: shapes or dtypes that do not fit; options out of range.

    Source:
        Wang, Liu, 2021, "Understanding the Behaviour of Contrastive Loss", arXiv:2012.09740, which takes the 4095
        hardest of 65536 in a queue. Equal similarities at the border are all taken.

    Example:
        >>> a = torch.eye(3)
        >>> round(HardContrastive(temperature=1.0, hardest=1)(a, a).item(), 4)  # log(1 + 2 / e), of equal negatives
        0.5514
    """

    batch_coupled = True
    status = "paper"
    evidence = "an independent evaluation of the formula; no code of the authors"

    temperature: Temperature = 0.3
    hardest: Count | None = 4095
    form: Literal["hard", "simple"] = "hard"
    weight_of_negatives: NonNegative = 1.0

    def forward(
        self,
        embeddings: Float[Tensor, "batch dim"],
        embeddings_b: Float[Tensor, "batch dim"],
        queue: Float[Tensor, "negatives dim"] | None = None,
    ) -> Float[Tensor, ""]:
        """Check and evaluate; see the class."""
        a, b, negatives = unit_views(self._identifier, embeddings, embeddings_b, queue)
        if len(a) == 0:
            return a.sum() + b.sum()
        with torch.autocast(a.device.type, enabled=False):
            if self.form == "simple":
                own, columns = (a * b).sum(dim=-1), b if negatives is None else torch.cat([b, negatives])
                return (self.weight_of_negatives * (a @ columns.sum(dim=0) - own) - own).mean()
            scale = 1 / self.temperature
            return partner_cross_entropy(a, b, scale=scale, negatives=negatives, hardest=self.hardest, both=False)
