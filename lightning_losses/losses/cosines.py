"""Logits that are cosines, as a `MarginHead` gives them."""

import warnings

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.numerics.probabilities import known_somewhere

# How far from [-1, 1] the cosines of a network in half precision may lie.
_ROUNDING = 1e-2


def warn_of_no_cosines(loss: Loss, logits: Float[Tensor, "*rows classes"]) -> None:
    """Warn once for each loss of logits above 1 in size, where that can be known for free."""
    if getattr(loss, "_warned_of_logits", False):
        return
    size = logits.detach().masked_fill(torch.isneginf(logits), 0.0).abs()
    if known_somewhere(size > 1 + _ROUNDING):
        loss.__dict__["_warned_of_logits"] = True
        warnings.warn(
            f"{loss.identifier()}: logits above 1 in size came, which are no cosines; give the network a MarginHead, "
            "on whose logits the margins are made to act.",
            stacklevel=3,
        )
