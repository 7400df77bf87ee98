"""Watches the entropy of every head's attention."""

import lightning as L
import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.callbacks.monitors.probe import ProbeMonitor
from lightning_losses.networks.attention_calls import AttentionCall, watched_attention
from lightning_losses.numerics.settings import Share
from lightning_losses.plots.grokking import value_curves
from lightning_losses.plots.style import Figure


@torch.no_grad()
def attention_entropy(call: AttentionCall) -> tuple[Float[Tensor, " heads"], Float[Tensor, " heads"]]:
    """The mean entropy of each head's attention in nats, and what it is at most.

    The mean is over samples and queries that see two keys at least; the most is the mean of the logarithms of how many
    keys they see.

    Example:
        >>> attention_entropy(AttentionCall(torch.zeros(1, 1, 2, 4), torch.zeros(1, 1, 2, 4), is_causal=True))
        (tensor([0.6931]), tensor([0.6931]))
    """
    logits = call.logits()
    visible = (logits > -torch.inf).sum(dim=-1)
    log_p = logits.log_softmax(dim=-1)
    entropy = -torch.where(logits > -torch.inf, log_p.exp() * log_p, 0.0).sum(dim=-1)
    chosen = visible > 1
    counts = chosen.sum(dim=(0, -1)).clamp(min=1)
    most = torch.where(chosen, visible.clamp(min=1).to(entropy.dtype).log(), 0.0)
    return tuple(torch.where(chosen, each, 0.0).sum(dim=(0, -1)) / counts for each in (entropy, most))  # type: ignore[return-value]


class AttentionEntropy(ProbeMonitor):
    """Logs the mean entropy of every head's attention on a fixed probe, and the shares of extreme heads.

    ``<layer>/head_<h>`` is a head's mean entropy in nats. `collapsed` is the share of heads whose entropy is below a
    share of what it could be: they attend to one token, which makes training unstable. `overloaded` is the share of
    those above another: they attend to everything alike, and are of no use. `AttentionEntropyRegularizer` is the loss
    against both. It sees the calls that `watched_attention` sees.

    Cost: a forward pass of the probe, and memory for queries × keys numbers of one layer at a time, every n steps.

    Args:
        collapse: of the largest possible entropy; a head below it counts as collapsed.
        overload: a head above this share counts as overloaded.
        samples, ignore_index, every_n_steps, folder: see `ProbeMonitor`.

    Raises:
        ValueError: a network that calls no such attention; shares outside of 0 to 1.

    Source:
        Jha, Reagen, 2025, "Entropy-Guided Attention for Private LLMs", arXiv:2501.03489, who measure entropies against
        the logarithm of the context's length; here it is that of the keys that each query sees.

    Example:
        >>> AttentionEntropy(every_n_steps=50).name
        'attention_entropy'
    """

    name = "attention_entropy"
    samples = 64

    collapse: Share = 0.1
    overload: Share = 0.9

    @property
    def takes_tokens(self) -> bool:
        """Attention asks for no target."""
        return True

    @torch.no_grad()
    def measure(
        self, trainer: L.Trainer, pl_module: L.LightningModule, inputs: Tensor, target: Tensor
    ) -> dict[str, float]:
        """The entropy of each head of each layer, and the shares."""
        layers: dict[str, tuple[Tensor, Tensor]] = {}

        def note(name: str, call: AttentionCall) -> None:
            layers[name] = attention_entropy(call)

        with watched_attention(pl_module, note):
            pl_module(inputs)
        if not layers:
            raise ValueError(
                f"{self.name}: the forward pass calls no scaled_dot_product_attention; use a network that does, such "
                "as timm's with fused attention."
            )
        share = torch.cat([entropy / most.clamp(min=torch.finfo(most.dtype).tiny) for entropy, most in layers.values()])
        values = {
            "collapsed": (share < self.collapse).double().mean().item(),
            "overloaded": (share > self.overload).double().mean().item(),
        }
        for name, (entropy, _) in layers.items():
            values |= {f"{name}/head_{head}": value for head, value in enumerate(entropy.tolist())}
        return values

    def figure(self) -> Figure:
        """The heads' entropies over steps."""
        curves = {name: curve for name, curve in self.curves().items() if "/" in name}
        return value_curves(curves, ylabel="mean entropy of attention in nats")
