"""MMD: the features of all domains shall have the same distribution, as Gaussian kernels see it."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.domains.domain_penalty import FeaturePenalty
from lightning_losses.numerics.checks import check_numbers
from lightning_losses.numerics.distances import squared_distances
from lightning_losses.numerics.vectors import refuse_powers


class MMD(FeaturePenalty):
    """MMD: the features of all domains shall have the same distribution, as Gaussian kernels see it.

    The mean over all pairs of domains of ``mean k(x, x') + mean k(y, y') - 2 mean k(x, y)``, the squared maximum mean
    discrepancy, with ``k = sum_γ exp(-γ |x - y|²)``. The biased estimate keeps each sample's kernel with itself and is
    never below 0. The unbiased one leaves it out, and a domain with a single sample too.

    The kernels have fixed widths, so the value depends on the scale of the features: where all distances are far above
    or below ``γ^-½`` of every γ, there is no gradient. A kernel of every pair is formed, which takes B² memory.

    Args:
        num_domains: E, at least 1.
        gammas: γ of each kernel, above 0.
        unbiased: whether the estimate is unbiased.

    Shapes:
        features: [B, D]; domain: [B] int64, from 0 to E - 1.

    Returns:
        A scalar; 0 with fewer than two domains.

    Raises:
        ValueError: shapes or dtypes that do not fit; no γ, or one that is not above 0; on a CPU and under `debug`, a
            domain out of range, or features in float64 whose squares are too large.

    Source:
        Li, Pan, Wang, Kot, 2018, "Domain Generalization with Adversarial Feature Learning", CVPR, with the discrepancy
        of Gretton, Borgwardt, Rasch, Schölkopf, Smola, 2012, "A Kernel Two-Sample Test", JMLR 13; kernels and defaults
        are those of DomainBed.

    Example:
        >>> features, domain = torch.tensor([[0.0], [1.0]]), torch.tensor([0, 1])
        >>> round(MMD(num_domains=2, gammas=[1.0])(features, domain).item(), 4)  # 2 - 2 / e
        1.2642
    """

    status = "paper"
    evidence = "facebookresearch/DomainBed, not the authors' code"

    gammas: Sequence[float] = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)
    unbiased: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self._identifier, "gammas", self.gammas, above=0)

    def measure(
        self, features: Float[Tensor, "batch dim"], member: Float[Tensor, "domains batch"]
    ) -> Float[Tensor, ""]:
        """The value of the batch."""
        # A narrow kernel of near samples shows each digit that a distance loses: fewer nearer to 0, none in float64.
        wide = features if features.device.type == "mps" else features.double()
        refuse_powers(self._identifier, 2, features=wide)
        centred = wide - wide.detach().mean(dim=0) if len(wide) else wide
        itself = torch.eye(len(features), dtype=torch.bool, device=features.device)
        distances = squared_distances(centred, centred).masked_fill(itself, 0.0).to(features)
        kernel = torch.stack([(-gamma * distances).exp() for gamma in self.gammas]).sum(dim=0)
        number = member.sum(dim=1)
        means = member @ kernel @ member.mT / (number.unsqueeze(1) * number).clamp(min=1)
        own = means.diagonal()
        if self.unbiased:
            own = (own * number - len(self.gammas)) / (number - 1).clamp(min=1)
        present = number > (1 if self.unbiased else 0)
        pair = (present.unsqueeze(1) & present).to(means).triu(diagonal=1)
        discrepancies = own.unsqueeze(1) + own - 2 * means
        return (pair * discrepancies).sum() / pair.sum().clamp(min=1)
