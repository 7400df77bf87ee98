"""CORAL: the features of all domains shall have the same covariance, and the same mean."""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.domains.domain_penalty import FeaturePenalty
from lightning_losses.numerics.domains import mean_over_pairs
from lightning_losses.numerics.settings import Weight
from lightning_losses.numerics.vectors import refuse_powers


class CORAL(FeaturePenalty):
    """CORAL: the features of all domains shall have the same covariance, and the same mean.

    The mean over all pairs of domains of ``mean_d (μ_i - μ_j)² + w mean_dd' (C_i - C_j)²``, with the mean μ and the
    covariance C of a domain's features, divided by its number of samples less 1. A domain with a single sample has no
    covariance, and is in the pairs of the first part alone. ``CORAL(E, mean_term=False, covariance_weight=0.25)`` is
    Deep CORAL: ``|C_i - C_j|² / (4 D²)``.

    Args:
        num_domains: E, at least 1.
        mean_term: whether means count.
        covariance_weight: w, at least 0.

    Shapes:
        features: [B, D]; domain: [B] int64, from 0 to E - 1.

    Returns:
        A scalar; 0 with fewer than two domains.

    Raises:
        ValueError: shapes or dtypes that do not fit; a domain out of range, or features above about 3e8 in float32,
            whose fourth powers are too large, on a CPU and under `debug`.

    Source:
        Sun and Saenko, 2016, "Deep CORAL: Correlation Alignment for Deep Domain Adaptation", arXiv:1607.01719, of two
        domains, without means; the defaults are those of DomainBed.

    Example:
        >>> features = torch.tensor([[0.0], [2.0], [3.0], [3.0]])
        >>> CORAL(num_domains=2)(features, domain=torch.tensor([0, 0, 1, 1])).item()  # (1 - 3)² + (2 - 0)²
        8.0
    """

    status = "paper"
    evidence = "facebookresearch/DomainBed, not the authors' code, and the paper's formula in numpy"

    mean_term: bool = True
    covariance_weight: Weight = 1.0

    def measure(
        self, features: Float[Tensor, "batch dim"], member: Float[Tensor, "domains batch"]
    ) -> Float[Tensor, ""]:
        """The value of the batch."""
        refuse_powers(self._identifier, 4, features=features)
        number = member.sum(dim=1)
        means = member @ features / number.clamp(min=1).unsqueeze(1)
        centred = features - member.mT @ means
        products = torch.einsum("eb,bd,bk->edk", member, centred, centred)
        covariances = products / (number - 1).clamp(min=1).view(-1, 1, 1)
        value = self.covariance_weight * mean_over_pairs(covariances, number > 1).mean()
        return value + mean_over_pairs(means, number > 0).mean() if self.mean_term else value
