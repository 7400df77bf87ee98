"""Load balancing: a router's tokens spread evenly over the experts."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.numerics.checks import check_floating, check_tensor
from lightning_losses.numerics.probabilities import full_precision, known_everywhere, probabilities
from lightning_losses.numerics.settings import Count


class LoadBalancing(Loss):
    """Load balancing: a router's tokens spread evenly over the experts.

    ``E Σ_e f_e P_e``, f_e being the expert's share of all choices, without gradient, and P_e its mean probability. It
    is 1 if all experts get the same, and E if all tokens go to one. It is added to a task's loss with a weight of about
    0.01. Batch-coupled: on several processes f and P are those of the tokens of all.

    Args:
        top_k: how many experts a token chooses, those with the largest logits; at least 1, at most E.
        per_layer: whether router_logits are those of several layers, [..., layers, E]; each layer has f and P of its
            own, and the value is the layers' mean.

    Shapes:
        router_logits: [..., E]; attention_mask (optional): the same without its last dimension, or without its last
        two where it holds for all layers. A token of 0 does not count.

    Returns:
        A scalar, 0 without tokens.

    Raises:
        ValueError: shapes or dtypes that do not fit; a top_k below 1 or above E.

    Source:
        Fedus, Zoph, Shazeer, 2021, "Switch Transformers: Scaling to Trillion Parameter Models with Simple and Efficient
        Sparsity", arXiv:2101.03961, for one choice a token. With several, f here is still a share: transformers'
        `load_balancing_loss_func` adds the choices up instead, which gives k times this, and puts the tokens of all
        layers together.

    Example:
        >>> router_logits = 9.0 * torch.eye(3)
        >>> [round(LoadBalancing()(rows).item(), 3) for rows in (router_logits, router_logits[[0, 0, 0]])]
        [1.0, 2.999]
    """

    status = "paper"
    evidence = "no golden values: the formula is one line, which its tests write another way"

    batch_coupled = True

    top_k: Count = 1
    per_layer: bool = False

    def forward(
        self, router_logits: Float[Tensor, "*tokens experts"], attention_mask: Shaped[Tensor, "..."] | None = None
    ) -> Float[Tensor, ""]:
        """Evaluate the loss; see the class."""
        logits, kept = router_rows(self._identifier, router_logits, attention_mask)
        layers, experts = logits.shape[-2] if self.per_layer else 1, logits.shape[-1]
        if self.per_layer and logits.ndim < 3:
            raise ValueError(
                f"{self._identifier}: router_logits of shape {list(logits.shape)} came with per_layer=True; give "
                "[..., layers, experts]."
            )
        if self.top_k > experts:
            raise ValueError(
                f"{self._identifier}: top_k={self.top_k} came with {experts} experts; give at most as many."
            )
        if logits.numel() == 0:
            return logits.sum() * 0.0
        chosen = torch.zeros_like(logits).scatter(-1, logits.detach().topk(self.top_k, dim=-1).indices, 1.0)
        p = probabilities(logits)
        if kept is not None:
            chosen, p = chosen * kept.unsqueeze(-1), p * kept.unsqueeze(-1)
        chosen, p = chosen.reshape(-1, layers, experts), p.reshape(-1, layers, experts)
        number = float(len(p)) if kept is None else kept.reshape(-1, layers, 1).sum(dim=0).clamp(min=1)
        share, mean = chosen.sum(dim=0) / (self.top_k * number), p.sum(dim=0) / number
        return experts * (share * mean).sum(dim=-1).mean()

    def denominator(self, **tensors: Tensor) -> Tensor:
        """What the mean divides by: the tokens that are not masked."""
        return tokens(**tensors)


def router_rows(
    loss: str, router_logits: Any, attention_mask: Any
) -> tuple[Float[Tensor, "*tokens experts"], Bool[Tensor, "*tokens"] | None]:
    """The logits of a router, checked, in full precision, 0 where masked; and which rows are kept, None for all.

    Raises:
        ValueError: logits that are no scores [..., E]; a mask of another shape.
    """
    check_floating(loss, "router_logits", router_logits)
    if router_logits.ndim < 2 or router_logits.shape[-1] == 0:
        raise ValueError(
            f"{loss}: router_logits of shape {list(router_logits.shape)} came; give [..., experts], with at least one "
            "expert and one dimension of tokens."
        )
    logits = full_precision(router_logits)
    if attention_mask is None:
        return logits, None
    check_tensor(loss, "attention_mask", attention_mask)
    rows = logits.shape[:-1]
    if attention_mask.shape not in (rows, rows[:-1] or rows):
        raise ValueError(
            f"{loss}: attention_mask of shape {list(attention_mask.shape)} came with router_logits of shape "
            f"{list(logits.shape)}; give {list(rows)}"
            + (f", or {list(rows[:-1])} for all layers alike." if len(rows) > 1 else ".")
        )
    kept = attention_mask.detach() != 0
    if kept.ndim < len(rows):
        kept = kept.unsqueeze(-1).expand(rows)
    if known_everywhere(kept):
        return logits, None
    return logits.masked_fill(~kept.unsqueeze(-1), 0.0), kept


def tokens(router_logits: Tensor, attention_mask: Tensor | None = None) -> Float[Tensor, ""]:
    """The number of tokens that are not masked, of each layer alike."""
    if attention_mask is not None:
        return (attention_mask != 0).sum()
    return torch.full((), router_logits.shape[:-1].numel(), device=router_logits.device)
