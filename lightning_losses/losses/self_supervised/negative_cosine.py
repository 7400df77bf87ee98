"""Negative cosine, of SimSiam and BYOL: each view's prediction points where the other view's embedding does."""

from dataclasses import field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.numerics.distances import unit_rows
from lightning_losses.numerics.reduction import Reduction, reduce
from lightning_losses.numerics.vectors import alike_vectors


class NegativeCosine(Loss):
    """Negative cosine, of SimSiam and BYOL: each view's prediction points where the other view's embedding does.

    ``-½ [cos(p, z') + cos(p', z)]`` for SimSiam, ``[2 - 2 cos(p, z')] + [2 - 2 cos(p', z)]`` for BYOL, which is 4 times
    SimSiam's plus 4. p and p' are the predictions of the two views, z and z' what is predicted, as constants: the
    network's own embeddings (SimSiam) or those of its moving average (BYOL). Without these constants all embeddings
    become the same. A vector of zeros has the cosine 0.

    Args:
        form: "simsiam" or "byol".
        reduction: "mean" over the samples, "sum", or "none".

    Shapes:
        predictions, predictions_b, target_embeddings, target_embeddings_b: [B, D].

    Returns:
        A scalar, or [B] without reduction; of SimSiam in [-1, 1], of BYOL in [0, 8].

    Raises:
        ValueError: shapes or dtypes that do not fit; another form or reduction.

    Source:
        Chen, He, 2021, "Exploring Simple Siamese Representation Learning", arXiv:2011.10566; Grill et al., 2020,
        "Bootstrap Your Own Latent", arXiv:2006.07733. Numbers are compared with lightly's NegativeCosineSimilarity.

    Example:
        >>> ahead = torch.tensor([[1.0, 0.0]])
        >>> NegativeCosine()(ahead, ahead, ahead, 3 * ahead).item()
        -1.0
        >>> NegativeCosine("byol")(ahead, ahead, ahead, -ahead).item()
        4.0
    """

    status = "paper"
    evidence = "golden values of lightly's NegativeCosineSimilarity"

    form: Literal["simsiam", "byol"] = "simsiam"
    reduction: Reduction = field(default="mean", kw_only=True)

    def forward(
        self,
        predictions: Float[Tensor, "batch dim"],
        predictions_b: Float[Tensor, "batch dim"],
        target_embeddings: Float[Tensor, "batch dim"],
        target_embeddings_b: Float[Tensor, "batch dim"],
    ) -> Float[Tensor, "..."]:
        """Check, evaluate and reduce; see the class."""
        given = alike_vectors(
            self._identifier,
            predictions=predictions,
            predictions_b=predictions_b,
            target_embeddings=target_embeddings,
            target_embeddings_b=target_embeddings_b,
        )
        with torch.autocast(predictions.device.type, enabled=False):
            p, p_b, z, z_b = map(unit_rows, (*given[:2], *(target.detach() for target in given[2:])))
            cosines = (p * z_b).sum(dim=-1) + (p_b * z).sum(dim=-1)
        return reduce(-cosines / 2 if self.form == "simsiam" else 4 - 2 * cosines, self.reduction)
