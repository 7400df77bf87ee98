"""Mixed Barlow Twins: the features of a mixture of two samples shall be the mixture of their features, too."""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.losses.self_supervised.barlow_twins import correlation_error
from lightning_losses.numerics.checks import check_floating
from lightning_losses.numerics.rows import check_shares
from lightning_losses.numerics.settings import Weight
from lightning_losses.numerics.vectors import alike_vectors, standardised


class MixedBarlowTwins(Loss):
    """Mixed Barlow Twins: the features of a mixture of two samples shall be the mixture of their features, too.

    ``BT(a, b) + s λ [ |M^T A - T^T A|² + |M^T B - T^T B|² ] / N²`` with BT as `BarlowTwins` of unbiased deviations,
    A, B, P and M the standardised features of the two views, of the mixtures' partners (second views of other
    samples) and of the mixtures, and ``T = share A + (1 - share) P`` what the mixtures should be. The targets T are not
    constants. A constant feature counts as 0. The batch is that of all processes.

    Args:
        redundancy_weight: λ, at least 0.
        mix_weight: s, at least 0.

    Shapes:
        embeddings, embeddings_b, mixed_embeddings, partner_embeddings: [B, D]; mix_share: [B] in [0, 1].

    Returns:
        A scalar; 0 for a batch of one.

    Raises:
        ValueError: shapes or dtypes that do not fit; shares outside [0, 1]; weights below 0.

    Source:
        Bandara, De Melo, Patel, 2023, "Guarding Barlow Twins Against Overfitting with Mixed Samples",
        arXiv:2312.02151, and its code wgcban/mix-bt, with its defaults. The paper has half of this mixing term, and a
        weight of its own.

    Example:
        >>> a, b = torch.randn(8, 3), torch.randn(8, 3)
        >>> one = torch.ones(8)
        >>> with_a = MixedBarlowTwins()(a, b, a, b, one)  # each mixture is its first view
        >>> torch.allclose(with_a, MixedBarlowTwins(mix_weight=0.0)(a, b, b, b, one), atol=1e-5)
        True
    """

    batch_coupled = True
    status = "confirmed"
    evidence = "wgcban/mix-bt"

    redundancy_weight: Weight = 0.005
    mix_weight: Weight = 5.0

    def forward(
        self,
        embeddings: Float[Tensor, "batch dim"],
        embeddings_b: Float[Tensor, "batch dim"],
        mixed_embeddings: Float[Tensor, "batch dim"],
        partner_embeddings: Float[Tensor, "batch dim"],
        mix_share: Float[Tensor, " batch"],
    ) -> Float[Tensor, ""]:
        """Check and evaluate; see the class."""
        given = alike_vectors(
            self._identifier,
            embeddings=embeddings,
            embeddings_b=embeddings_b,
            mixed_embeddings=mixed_embeddings,
            partner_embeddings=partner_embeddings,
        )
        check_floating(self._identifier, "mix_share", mix_share)
        if mix_share.shape != embeddings.shape[:1]:
            raise ValueError(
                f"{self._identifier}: mix_share of shape {list(mix_share.shape)} came with {len(embeddings)} samples; "
                "give a share for each."
            )
        check_shares(self._identifier, "mix_share", mix_share)
        if len(embeddings) < 2:
            return sum((vectors.sum() for vectors in given), mix_share.detach().sum()) * 0.0
        with torch.autocast(embeddings.device.type, enabled=False):
            a, b, mixed, partner = (standardised(vectors, unbiased=True) for vectors in given)
            value = correlation_error(a, b, self.redundancy_weight)
            share = mix_share.detach().to(a.dtype).unsqueeze(1)
            apart = mixed - (share * a + (1 - share) * partner)
            errors = sum((apart.mT @ view / len(view)).square().sum() for view in (a, b))
            return value + self.mix_weight * self.redundancy_weight * errors
