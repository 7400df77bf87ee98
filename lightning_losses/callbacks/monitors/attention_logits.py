"""Watches the growth of attention logits in every layer."""

import lightning as L
import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.callbacks.monitors.probe import ProbeMonitor
from lightning_losses.networks.attention_calls import AttentionCall, watched_attention
from lightning_losses.plots.grokking import value_curves
from lightning_losses.plots.style import Figure


@torch.no_grad()
def largest_attention_logit(
    query: Float[Tensor, "... queries d"],
    key: Float[Tensor, "... keys d"],
    mask: Tensor | None = None,
    *,
    is_causal: bool = False,
    scale: float | None = None,
) -> Float[Tensor, ""]:
    """The largest unmasked input of attention's softmax, ``query keyᵀ / √d``.

    Args:
        query: [..., queries, d].
        key: [..., keys, d]; if it has fewer heads than `query`, each one serves several of them.
        mask: as in `scaled_dot_product_attention`: booleans, True where attention is allowed, or numbers to add.
        is_causal: whether queries are kept from attending to later keys.
        scale: instead of 1 / √d.

    Example:
        >>> largest_attention_logit(torch.ones(1, 1, 2, 4), torch.ones(1, 1, 2, 4))
        tensor(2.)
    """
    return AttentionCall(query, key, mask, is_causal, scale).logits().max()


class AttentionLogits(ProbeMonitor):
    """Logs the largest attention logit of every layer, and of all of them, on a fixed probe.

    If they grow without bound, attention becomes one-hot and training unstable. The remedy is to normalise queries and
    keys before their product: `qk_norm=True` in timm's vision transformers (``+model.qk_norm=true`` with
    ``model=vit_tiny``); the largest logit is then at most √d times the norms' gains.

    It records every call of `torch.nn.functional.scaled_dot_product_attention` under the name of the calling module:
    timm's and Hugging Face's fused attention, and `nn.MultiheadAttention` if it returns no weights.

    Cost: a forward pass of the probe, and memory for queries × keys numbers of one layer at a time, every n steps.

    Args:
        samples, ignore_index, every_n_steps, folder: see `ProbeMonitor`.

    Raises:
        ValueError: a network that calls no such attention.

    Source:
        Wortsman et al., 2023, "Small-scale Proxies for Large-scale Transformer Training Instabilities",
        arXiv:2309.14322; the norm: Dehghani et al., 2023, arXiv:2302.05442.

    Example:
        >>> AttentionLogits(every_n_steps=50).name
        'attention_logits'
    """

    name = "attention_logits"
    samples = 64

    @property
    def takes_tokens(self) -> bool:
        """Attention asks for no target."""
        return True

    @torch.no_grad()
    def measure(
        self, trainer: L.Trainer, pl_module: L.LightningModule, inputs: Tensor, target: Tensor
    ) -> dict[str, float]:
        """The largest logit of each layer."""
        found: dict[str, list[Tensor]] = {}

        def note(name: str, call: AttentionCall) -> None:
            found.setdefault(name, []).append(call.logits().max())

        with watched_attention(pl_module, note):
            pl_module(inputs)
        if not found:
            raise ValueError(
                f"{self.name}: the forward pass calls no scaled_dot_product_attention; use a network that does, such "
                "as timm's with fused attention."
            )
        largest = torch.stack([torch.stack(values).max() for values in found.values()]).tolist()
        return {"all": max(largest), **dict(zip(found, largest, strict=True))}

    def figure(self) -> Figure:
        """The largest logits over steps."""
        return value_curves(self.curves(), ylabel="largest attention logit", highlight="all")
