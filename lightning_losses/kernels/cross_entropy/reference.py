"""Linear cross-entropy with the logits held: for small heads, for tests, and for derivatives of any order."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.kernels.terms import Terms, statistics_dtype


def rows(
    hidden: Float[Tensor, "tokens width"],
    weight: Float[Tensor, "vocabulary width"],
    bias: Float[Tensor, " vocabulary"] | None,
    target: Int[Tensor, " tokens"],
    terms: Terms,
) -> tuple[Float[Tensor, " tokens"], Float[Tensor, " tokens"]]:
    """Cross-entropy and logsumexp of each row, by autograd on logits in float32 (float64 for float64)."""
    statistics = statistics_dtype(weight)
    logits = hidden.to(statistics) @ weight.to(statistics).t()
    if bias is not None:
        logits = logits + bias.to(statistics)
    if terms.softcap is not None:
        logits = terms.softcap * torch.tanh(logits / terms.softcap)
    lse = logits.logsumexp(dim=1)
    picked = logits.gather(1, target.unsqueeze(1)).squeeze(1)
    smooth = None
    if terms.label_smoothing:
        smooth = logits.sum(dim=1) if terms.class_weight is None else logits @ terms.class_weight.to(statistics)
    return terms.cross_entropy(lse, picked, smooth, terms.row_weight(target)), lse
