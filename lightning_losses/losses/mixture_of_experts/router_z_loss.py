"""The z-loss of a router: keeps its logits small, so that rounding chooses no other experts."""

from dataclasses import field

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.losses.mixture_of_experts.load_balancing import router_rows, tokens
from lightning_losses.numerics.reduction import Reduction, reduce


class RouterZLoss(Loss):
    """The z-loss of a router: keeps its logits small, so that rounding chooses no other experts.

    ``(log Σ_e exp z_e)²``, averaged over tokens and layers. It is added to a task's loss with a weight of about 0.001.
    `z_loss` is the same of a classifier's logits.

    Args:
        reduction: "mean" over the tokens that are not masked, "sum", or "none".

    Shapes:
        router_logits: [..., E], also [..., layers, E]; attention_mask (optional): the same without its last dimension,
        or without its last two where it holds for all layers. A token of 0 does not count.

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit.

    Source:
        Zoph, Bello, Kumar, Du, Huang, Dean, Shazeer, Fedus, 2022, "ST-MoE: Designing Stable and Transferable Sparse
        Expert Models", arXiv:2202.08906.

    Example:
        >>> import math
        >>> round(RouterZLoss()(torch.zeros(2, 8)).item() / math.log(8) ** 2, 4)
        1.0
    """

    status = "paper"
    evidence = "no golden values: the formula is one line, which its tests write another way"

    reduction: Reduction = field(default="mean", kw_only=True)

    def forward(
        self, router_logits: Float[Tensor, "*tokens experts"], attention_mask: Shaped[Tensor, "..."] | None = None
    ) -> Float[Tensor, "..."]:
        """Evaluate the loss; see the class."""
        logits, kept = router_rows(self._identifier, router_logits, attention_mask)
        return reduce(torch.logsumexp(logits, dim=-1).square(), self.reduction, kept)

    def denominator(self, **tensors: Tensor) -> Tensor:
        """What reduction "mean" divides by: the tokens that are not masked."""
        return tokens(**tensors)
