"""Uncertainty weighting: learns each term's weight as the precision of a task's noise."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lightning_losses.balancing.base import Balancing

Kind = Literal["regression", "classification"]


class UncertaintyWeighting(Balancing):
    """Uncertainty weighting: minimises ``Σ k exp(-s) L + s / 2`` over the network and each term's ``s = log σ²``.

    k is 1/2 for a regression's squared error and 1 for a classification's cross-entropy. For a constant loss the best s
    is ``log(2 k L)``, which gives the weight ``1 / (2 L)``. The s are parameters of the objective: give them to the
    optimizer with the other parameters, without weight decay, which would pull every weight to k. They are kept within
    ±10.

    Args:
        kinds: "regression" or "classification", for each term in order or one for all; None: regression, as in both
            well-known implementations.
        start: the initial value of each s; LibMTL uses -0.5.

    Raises:
        ValueError: unknown kinds, or a number of kinds that is not the number of terms.

    Source:
        Kendall, Gal, Cipolla, 2018, "Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry and
        Semantics", arXiv:1705.07115. Confirmed against TorchJD 0.18.0.

    Example:
        >>> policy = UncertaintyWeighting(kinds=["regression", "classification"])
        >>> policy.begin(terms=2)
        >>> policy.weights(torch.ones(2)).tolist()
        [0.5, 1.0]
    """

    kinds: Sequence[Kind] | Kind | None = None
    start: float = 0.0

    def begin(self, terms: int) -> None:
        """Create one s for each term."""
        super().begin(terms)
        kinds = [self.kinds] * terms if isinstance(self.kinds, str) else list(self.kinds or ["regression"] * terms)
        if len(kinds) != terms or not {"regression", "classification"}.issuperset(kinds):
            raise ValueError(
                f"{self.name}: kinds={self.kinds!r} came for {terms} terms; give 'regression' or 'classification' for "
                "each."
            )
        self.log_variance = nn.Parameter(torch.full((terms,), float(self.start)))
        self.state("factor", 1.0)
        self.get_buffer("factor").copy_(torch.tensor([0.5 if kind == "regression" else 1.0 for kind in kinds]))

    def weights(self, losses: Float[Tensor, " terms"]) -> Float[Tensor, " terms"]:
        """``k exp(-s)``, with gradient."""
        with torch.no_grad():
            # Put back, not cut in the graph: beyond the bounds there would be no gradient that leads back.
            self.log_variance.clamp_(-10, 10)
        return self.get_buffer("factor").to(self.log_variance.dtype) * (-self.log_variance).exp()

    def penalties(self) -> Float[Tensor, " terms"]:
        """``s / 2``."""
        return self.log_variance / 2
