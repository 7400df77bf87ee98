"""Truncated generalised cross-entropy: samples that the network finds too unlikely no longer count."""

from typing import Annotated

from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import CrossEntropyFunction
from lightning_losses.numerics.settings import Bound
from lightning_losses.numerics.tempered import tempered_logarithm


class TruncatedGCE(CrossEntropyFunction):
    """Truncated generalised cross-entropy: samples that the network finds too unlikely no longer count.

    ``min((1 - p^q) / q, (1 - k^q) / q)`` with p the probability of the target: `GCE` down to p = k, below it a
    constant without gradient. It is a function of cross-entropy alone.

    A network that has not learned anything finds every class as unlikely as 1/C: if k is above that, no sample has a
    gradient at the start. Train by `GCE` first.

    Args:
        q: as of `GCE`, above 0 and at most 1.
        threshold: k, the probability below which a sample has no gradient, at least 0 and below 1; 0 is `GCE`.

    Shapes:
        logits: [..., C]; target: [...] class indices.

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; a target of probabilities; a setting outside of its range.

    Source:
        Zhang, Sabuncu, 2018, "Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy Labels",
        arXiv:1805.07836, with q = 0.7 and k = 0.5. They choose anew, every few epochs, which samples count, and train
        on these by GCE; this chooses in every step.

    Example:
        >>> import torch
        >>> loss = TruncatedGCE(q=1.0, threshold=0.5, reduction="none")
        >>> loss(torch.tensor([[0.8, 0.2], [0.8, 0.2]]).log(), torch.tensor([0, 1]))
        tensor([0.2000, 0.5000])
    """

    status = "paper"
    evidence = "Optimization-AI/ICML2023_LDR, not the authors' code"

    q: Annotated[float, Bound(above=0, most=1)] = 0.7
    threshold: Annotated[float, Bound(least=0, below=1)] = 0.5

    def of_cross_entropy(self, cross_entropy: Float[Tensor, "*rows"]) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        most = (1 - self.threshold**self.q) / self.q
        return (-tempered_logarithm(-cross_entropy, 1 - self.q)).clamp(max=most)
