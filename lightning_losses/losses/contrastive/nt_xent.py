"""NT-Xent: each view picks the other view of its sample out of all views of the batch."""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.losses.contrastive.views import unit_views
from lightning_losses.numerics.probabilities import softplus
from lightning_losses.numerics.settings import Temperature
from lightning_losses.similarities import similarity_logsumexp


class NTXent(Loss):
    """Normalised temperature-scaled cross-entropy: each view picks its sample's other view out of all of the batch.

    ``-(1/2B) sum_i log(exp(s_ip / τ) / sum_{j≠i} exp(s_ij / τ))``, with s the cosines of the 2B views and p the other
    view of i's sample. The matrix of similarities is not held, and each of its halves computed once.

    Args:
        temperature: τ, above 0: 0.5 for small images in the paper, 0.1 for large ones.

    Shapes:
        embeddings: [B, D]; embeddings_b: [B, D], the second view; queue (optional): [Q, D], constant, further
        negatives of every view.

    Returns:
        A scalar; 0 for a batch of one without a queue.

    Raises:
        ValueError: shapes or dtypes that do not fit; a temperature of 0 or less.

    Source:
        Chen, Kornblith, Norouzi, Hinton, 2020, "A Simple Framework for Contrastive Learning of Visual
        Representations", arXiv:2002.05709. The queue is that of He et al., 2020, arXiv:1911.05722.

    Example:
        >>> same = torch.ones(4, 2)
        >>> round(NTXent()(same, same).item(), 4)  # log(2 B - 1)
        1.9459
    """

    batch_coupled = True
    status = "paper"
    evidence = "values and gradients of pytorch-metric-learning 2.9 and lightly 1.6, not the authors' code"

    temperature: Temperature = 0.5

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
            views, scale = torch.cat([a, b]), 1 / self.temperature
            # The other samples alone: the two views of one lie B places apart.
            others = similarity_logsumexp(views, scale=scale, period=len(a))
            if negatives is not None:
                of_queue = similarity_logsumexp(views, negatives, scale=scale)
                others = torch.logaddexp(others, of_queue)
            partner = (a * b).sum(dim=-1).repeat(2) * scale
            return softplus(others - partner).mean()
