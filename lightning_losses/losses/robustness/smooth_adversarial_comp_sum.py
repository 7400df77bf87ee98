"""Smooth adversarial comp-sum loss: a comp-sum loss of clean inputs, and how far an attack moves their margins."""

from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.robustness.attacked_rows import AttackedLoss, AttackedRows
from lightning_losses.numerics.probabilities import log_probabilities
from lightning_losses.numerics.rows import pick
from lightning_losses.numerics.settings import Bound, Positive, Weight
from lightning_losses.numerics.tempered import tempered_logarithm

# Below the root, so that equal margins have a gradient, which is 0.
_LEAST = 1e-12


class SmoothAdversarialCompSum(AttackedLoss):
    """Smooth adversarial comp-sum loss: a comp-sum loss of clean inputs, and how far an attack moves their margins.

    ``Φ(S) + ν ||Δ(x') - Δ(x)||`` with ``S = sum_k exp((z_k - z_y) / ρ)``, ``Φ(S) = (S^(1-τ) - 1) / (1 - τ)``, which is
    `CompSum`, and Δ the vector of the margins ``z_y - z_k``. Both logits get a gradient from the norm. Its attack makes
    that norm large; the norm has no direction at the clean input, so that the attack begins at random. A class that one
    of both logits masks by -inf has no part in the norm.

    Args:
        tau: τ, at least 0 and at most 10; 1 is cross-entropy.
        rho: ρ, the margin's scale, above 0.
        nu: ν, the weight of the norm, at least 0.

    Shapes:
        logits: [..., C]; attacked_logits: [..., C]; target: [...] class indices.

    Returns:
        A scalar, or [...] without reduction. Under the root stands 10^-12, for which 10^-6 is subtracted.

    Raises:
        ValueError: shapes or dtypes that do not fit; a target of probabilities; settings outside of their ranges.

    Source:
        Mao, Mohri, Zhong, 2023, "Cross-Entropy Loss Functions: Theoretical Analysis and Applications",
        arXiv:2304.07288, who published no code; which norm and weights their experiments have was not compared.

    Example:
        >>> loss, clean = SmoothAdversarialCompSum(), torch.tensor([[2.0, 0.0]])
        >>> [round(loss(clean, attacked, torch.tensor([0])).item(), 4) for attacked in (clean, -clean)]
        [0.1269, 4.1269]
    """

    status = "experimental"
    evidence = "an independent evaluation of the formula"

    tau: Annotated[float, Bound(least=0, most=10)] = 1.0
    rho: Positive = 1.0
    nu: Weight = 1.0

    def rows(self, given: AttackedRows) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        clean, attacked, target = given.logits, given.attacked_logits, given.target
        masked = torch.isneginf(clean) | torch.isneginf(attacked)
        moved = attacked.masked_fill(masked, 0.0) - clean.masked_fill(masked, 0.0)
        margins = (pick(moved, target).unsqueeze(-1) - moved).masked_fill(masked, 0.0)
        norm = (margins.square().sum(dim=-1) + _LEAST).sqrt() - _LEAST**0.5
        return tempered_logarithm(-pick(log_probabilities(clean, self.rho), target), self.tau) + self.nu * norm
