"""Entropy-guided attention: holds the entropy of each head's attention near a level that it learns."""

import math
from dataclasses import field

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from lightning_losses.losses.base import Loss
from lightning_losses.numerics.checks import check_floating, check_tensor
from lightning_losses.numerics.probabilities import full_precision
from lightning_losses.numerics.reduction import Reduction, reduce
from lightning_losses.numerics.settings import Count, Positive, Share
from lightning_losses.numerics.token_sequences import token_mean


class AttentionEntropyRegularizer(Loss):
    """Entropy-guided attention: holds the entropy of each head's attention near a level that it learns.

    With ``E = -Σ_k A_k log(A_k + ε)`` of a query's attention weights A over K keys, and θ the head's threshold, the
    deviation is ``δ = E - θ log K``, and the penalty ``δ²`` where ``|δ| > γ log K``, else 0; also 0 of a query that
    attends to nothing, whose weights are 0. A sample's value is the mean over its queries, heads and layers. It is
    added to cross-entropy with a small weight. Heads that attend to everything alike waste themselves, and heads that
    attend to one token make training unstable. log K is more than the first queries of a causal mask can reach.

    `lightning_losses.networks.attention_calls.attention_maps` records the weights; `LanguageModel` does it by itself.

    Args:
        layers: the number of layers, L, at least 1.
        heads: the number of heads of each layer, H, at least 1.
        tolerance: γ, from 0 to 1.
        threshold: what each θ begins as, from 0 to 1.
        log_eps: ε, above 0.
        reduction: "mean" over the samples that have a query that counts, "sum", or "none".

    Attributes:
        thresholds: [L, H] θ, which is trained.

    Shapes:
        attentions: [B, L, H, queries, K] weights that sum to 1 over K; attention_mask (optional): [B, queries], or [B]
        for whole samples; a query of 0 does not count.

    Returns:
        A scalar, or [B] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; settings out of range.

    Source:
        Jha, Reagen, 2025, "Entropy-Guided Attention for Private LLMs", arXiv:2501.03489, and the code,
        Nandan91/entropy-guided-attention-llm, whose loss is 1e-5 times the sum over samples and queries, and
        which takes the last layer's thresholds for all layers. It does not say what they begin as.

    Example:
        >>> even = torch.full((1, 1, 1, 1, 4), 0.25)
        >>> loss = AttentionEntropyRegularizer(layers=1, heads=1)  # δ = log 4 / 2
        >>> round(loss(even).item() / math.log(4) ** 2, 4)
        0.25
    """

    status = "confirmed"
    evidence = "Nandan91/entropy-guided-attention-llm"

    layers: Count
    heads: Count
    tolerance: Share = 0.2
    threshold: Share = 0.5
    log_eps: Positive = 1e-9
    reduction: Reduction = field(default="mean", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.thresholds = nn.Parameter(torch.full((self.layers, self.heads), float(self.threshold)))

    def forward(
        self,
        attentions: Float[Tensor, "batch layers heads queries keys"],
        attention_mask: Shaped[Tensor, "batch queries"] | None = None,
    ) -> Float[Tensor, "..."]:
        """Evaluate the loss; see the class."""
        check_floating(self._identifier, "attentions", attentions)
        if attentions.ndim != 5 or attentions.shape[1:3] != self.thresholds.shape or attentions.shape[-1] == 0:
            raise ValueError(
                f"{self._identifier}: attentions of shape {list(attentions.shape)} came; give [B, {self.layers}, "
                f"{self.heads}, queries, keys]."
            )
        batch, queries, keys = len(attentions), *attentions.shape[3:]
        kept = None
        weights = full_precision(attentions)
        if attention_mask is not None:
            check_tensor(self._identifier, "attention_mask", attention_mask)
            if attention_mask.shape not in ((batch,), (batch, queries)):
                raise ValueError(
                    f"{self._identifier}: attention_mask of shape {list(attention_mask.shape)} came with attentions of "
                    f"shape {list(attentions.shape)}; give [{batch}, {queries}], or [{batch}] for whole samples."
                )
            kept = (
                (attention_mask != 0).reshape(batch, queries if attention_mask.ndim == 2 else 1).expand(batch, queries)
            )
            # A query of padding may attend to nothing, and then holds NaN.
            weights = weights.masked_fill(~kept[:, None, None, :, None], 0.0)
        entropy = -(weights * (weights + self.log_eps).log()).sum(dim=-1)
        largest = math.log(keys)
        deviation = entropy - self.thresholds.to(entropy.dtype).unsqueeze(-1) * largest
        # What is not a number is not within, and stays.
        within = deviation.detach().abs() <= self.tolerance * largest
        penalty = deviation.masked_fill(within | (weights == 0).all(dim=-1), 0.0).square()
        of_query = penalty.mean(dim=(1, 2))
        if kept is None:
            return reduce(of_query.mean(dim=-1), self.reduction)
        return reduce(token_mean(of_query, kept), self.reduction, kept.any(dim=-1))

    def denominator(self, **tensors: Tensor) -> Tensor:
        """What reduction "mean" divides by: the samples that have a query that counts."""
        attentions, mask = tensors["attentions"], tensors.get("attention_mask")
        if mask is None:
            return torch.full((), len(attentions), device=attentions.device)
        counts = mask != 0
        return (counts if mask.ndim == 1 else counts.any(dim=-1)).sum()
