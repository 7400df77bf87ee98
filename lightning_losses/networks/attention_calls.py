"""Watches a network's calls of attention: their queries, keys and masks, and the weights that follow."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lightning_losses.numerics.probabilities import full_precision


class AttentionCall(NamedTuple):
    """The arguments of a call of `scaled_dot_product_attention`.

    Attributes:
        query: [..., queries, d].
        key: [..., keys, d]; if it has fewer heads than `query`, each one serves several of them.
        mask: booleans, True where attention is allowed, or numbers to add; None for none.
        is_causal: whether queries are kept from attending to later keys.
        scale: of the products; None is 1 / √d.
    """

    query: Float[Tensor, "... queries d"]
    key: Float[Tensor, "... keys d"]
    mask: Tensor | None = None
    is_causal: bool = False
    scale: float | None = None

    def logits(self) -> Float[Tensor, "... queries keys"]:
        """The inputs of attention's softmax, in full precision; -inf where attention is not allowed.

        Example:
            >>> AttentionCall(torch.ones(1, 2, 4), torch.ones(1, 2, 4), is_causal=True).logits()
            tensor([[[2., -inf],
                     [2., 2.]]])
        """
        query, key = full_precision(self.query), full_precision(self.key)
        if query.ndim > 3 and query.shape[-3] != key.shape[-3]:
            key = key.repeat_interleave(query.shape[-3] // key.shape[-3], dim=-3)
        factor = 1 / math.sqrt(query.shape[-1]) if self.scale is None else self.scale
        with torch.autocast(query.device.type, enabled=False):
            logits = query @ key.transpose(-2, -1) * factor
        if self.is_causal:
            seen = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).tril()
            logits = logits.masked_fill(~seen, -math.inf)
        if self.mask is not None:
            logits = logits.masked_fill(~self.mask, -math.inf) if self.mask.dtype == torch.bool else logits + self.mask
        return logits


@contextmanager
def watched_attention(module: nn.Module, watch: Callable[[str, AttentionCall], None]) -> Iterator[None]:
    """Within this context, `watch` gets every call of attention in the module, and the name of the calling submodule.

    It sees `torch.nn.functional.scaled_dot_product_attention`: that of this library's transformer, timm's and Hugging
    Face's fused attention, and `nn.MultiheadAttention` if it returns no weights.
    """
    running: list[str] = []
    attention: Callable[..., Tensor] = F.scaled_dot_product_attention

    def watched(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        **options: Any,
    ) -> Tensor:
        watch(running[-1] if running else "", AttentionCall(query, key, attn_mask, is_causal, scale))
        return attention(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, **options)

    def enter(name: str) -> Any:
        return lambda part, given: running.append(name)

    def leave(part: nn.Module, given: Any, output: Any) -> None:
        running.pop()

    hooks = []
    for name, part in module.named_modules():
        hooks.append(part.register_forward_pre_hook(enter(name)))
        hooks.append(part.register_forward_hook(leave))
    fast_path = torch.backends.mha.get_fastpath_enabled()
    # In evaluation mode `nn.MultiheadAttention` would call a fused kernel that hides queries and keys.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with patch.object(F, "scaled_dot_product_attention", watched):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for hook in hooks:
            hook.remove()


@contextmanager
def attention_maps(module: nn.Module) -> Iterator[dict[str, Float[Tensor, "batch heads queries keys"]]]:
    """Within this context, the attention weights of every layer that the module runs, with gradients.

    They are computed beside the fused attention, whose output stays. Of a layer that runs again the last call counts. A
    query that may attend to no key, as those of padding at the left, has weights of 0.

    Example:
        >>> from lightning_losses.networks.transformer import Transformer
        >>> network = Transformer(vocabulary_size=9, context_length=8, width=8, depth=2, heads=2)
        >>> with attention_maps(network) as maps:
        ...     _ = network(torch.zeros(3, 5, dtype=torch.long))
        >>> {name: tuple(weights.shape) for name, weights in maps.items()}
        {'blocks.0': (3, 2, 5, 5), 'blocks.1': (3, 2, 5, 5)}
    """
    maps: dict[str, Tensor] = {}

    def keep(name: str, call: AttentionCall) -> None:
        logits = call.logits()
        none = torch.isneginf(logits.detach().amax(dim=-1, keepdim=True))
        maps[name] = logits.masked_fill(none, 0.0).softmax(dim=-1).masked_fill(none, 0.0)

    with watched_attention(module, keep):
        yield maps
