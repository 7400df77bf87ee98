"""GradNorm: learns weights that make gradients longer for terms that learn more slowly."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.balancing.base import Balancing, Step
from lightning_losses.numerics.settings import NonNegative, Positive

_LEAST = 1e-8


class GradNorm(Balancing):
    """GradNorm: after each step the weights move towards equal gradient lengths, and longer ones for slow terms.

    With n the lengths of the unweighted gradients of the shared parameters and r the terms' losses divided by their
    first ones and by the mean of these ratios, the weights w descend ``Σ |w n - mean(w n) r^alpha|``, whose second part
    is a target without gradient. Then they are scaled to the sum T. The network is trained with the weights before the
    step.

    Args:
        shared: patterns of the names of the parameters whose gradients are measured, in the paper those of the last
            shared layer, which is also the cheapest; None: those on which more than one term depends.
        alpha: the strength with which slow terms are sped up.
        lr: learning rate of the weights' gradient descent.
        parametrisation: "raw" weights, kept above 0, or T times the "softmax" of logits.

    Source:
        Chen, Badrinarayanan, Lee, Rabinovich, 2018, "GradNorm: Gradient Normalization for Adaptive Loss Balancing in
        Deep Multitask Networks", arXiv:1711.02257. The softmax's gradient is confirmed against LibMTL, which begins
        after an epoch; the raw one is the paper's.

    Example:
        >>> policy = GradNorm(lr=0.1)
        >>> policy.begin(terms=2)
        >>> policy.update(Step(torch.ones(2), norms=torch.tensor([1.0, 3.0])))
        >>> [round(weight, 3) for weight in policy.weights(torch.ones(2)).tolist()]
        [1.222, 0.778]
    """

    watches_gradients = True

    shared: Sequence[str] | None = None
    alpha: NonNegative = 1.5
    lr: Positive = 0.025
    parametrisation: Literal["raw", "softmax"] = "raw"

    def begin(self, terms: int) -> None:
        """Create the weights or their logits, and the first losses."""
        super().begin(terms)
        self.state("learned", 1.0 if self.parametrisation == "raw" else 0.0)
        self.state("first", float("nan"))

    def weights(self, losses: Float[Tensor, " terms"]) -> Float[Tensor, " terms"]:
        """The weights learned in earlier steps."""
        learned = self.get_buffer("learned")
        return learned.clone() if self.parametrisation == "raw" else self.terms * learned.softmax(dim=0)

    def gradient(self, step: Step) -> tuple[Float[Tensor, ""], Float[Tensor, " terms"]]:
        """The weights' loss, and its gradient with respect to the weights or their logits."""
        assert step.norms is not None
        first, weights = self.get_buffer("first"), self.weights(step.losses)
        losses, norms = step.losses.to(first), step.norms.to(first)
        known = losses.isfinite() & norms.isfinite()
        count = known.sum().clamp(min=1)
        lengths = torch.where(known, weights * norms, 0.0)
        lag = torch.where(known, losses / torch.where(first.isnan(), losses, first).clamp(min=1e-12), 0.0)
        lag = lag.clamp(min=0) / (lag.clamp(min=0).sum() / count).clamp(min=1e-12)
        distance = torch.where(known, lengths - lengths.sum() / count * lag**self.alpha, 0.0)
        gradient = distance.sign() * torch.where(known, norms, 0.0)
        if self.parametrisation == "softmax":
            gradient = weights * (gradient - (gradient * weights).sum() / self.terms)
        return distance.abs().sum(), gradient

    def update(self, step: Step) -> None:
        """Descend once."""
        learned, first = self.get_buffer("learned"), self.get_buffer("first")
        counted = step.losses.isfinite()
        first.copy_(torch.where(counted & first.isnan(), step.losses.to(first), first))
        learned.sub_(self.lr * self.gradient(step)[1])
        if self.parametrisation == "raw":
            learned.clamp_(min=_LEAST)
            learned.mul_(self.terms / learned.sum())
