"""KNN: the distance to the k-th nearest training features."""

from dataclasses import field
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lightning_losses.metrics.embedding_rows import blocks, checked_directions
from lightning_losses.numerics.settings import Count
from lightning_losses.out_of_distribution.base import OutOfDistributionScore, refuse_not_finite
from lightning_losses.out_of_distribution.measuring import Outputs
from lightning_losses.parallel.processes import rows_of_all


class KNN(OutOfDistributionScore):
    """Minus the Euclidean distance to the k-th nearest training sample, by a layer's features of length 1.

    ``-‖h/‖h‖ - b_(k)‖``, b_(k) being the k-th nearest of the bank of training features of length 1. No shape of the
    features is assumed, and nothing is trained. A training sample's nearest neighbour is itself.

    Args:
        layer: the name of the layer, usually the last before the head; its output is averaged over all but its first
            two dimensions.
        k: at least 1; the farthest, where the bank holds fewer.

    Shapes:
        the layer's output: [B, D, ...]; returns [B] float64, from -2 to 0.

    Raises:
        ValueError: a layer that the network lacks; training features with NaN or inf; use before `fit`.

    Source:
        Sun, Ming, Zhu, Li, 2022, "Out-of-Distribution Detection with Deep Nearest Neighbors", arXiv:2204.06507. OpenOOD
        gives the squared distance, which orders inputs alike.

    Example:
        >>> network = nn.Sequential(nn.Identity(), nn.Linear(2, 2))
        >>> known = torch.tensor([[1.0, 0.0], [2.0, 0.0], [1.0, 0.1]])
        >>> score = KNN("0", k=2).fit(network, [(known, torch.tensor([0, 0, 1]))])
        >>> score(network, torch.tensor([[5.0, 0.0], [0.0, 1.0]]))
        tensor([-0.0000, -1.4142], dtype=torch.float64)
    """

    name = "knn"
    learns: ClassVar[bool] = True

    layer: str
    k: Count = 50
    bank: Float[Tensor, "samples d"] | None = field(init=False, default=None)
    _parts: list[Tensor] = field(init=False, default_factory=list)

    @property
    def read_layers(self) -> tuple[str, ...]:
        """The layer."""
        return (self.layer,)

    @property
    def fitted(self) -> bool:
        """Whether there is a bank."""
        return self.bank is not None

    def clear(self) -> None:
        """Forget the bank."""
        self.bank, self._parts = None, []

    def update(self, outputs: Outputs, target: Int[Tensor, " batch"]) -> None:
        """Keep the directions of a batch's features."""
        self._parts.append(checked_directions(self.name, "features", outputs.features(self.layer)))

    def finish(self, device: torch.device) -> None:
        """Make the bank, of all processes' features."""
        own = torch.cat(self._parts) if self._parts else torch.zeros(0, 0, dtype=torch.float64, device=device)
        bank = torch.cat(rows_of_all(own))
        refuse_not_finite(self.name, self.layer, bank)
        self.bank, self._parts = bank, []

    def score(self, network: nn.Module, inputs: Any, outputs: Outputs) -> Float[Tensor, " batch"]:
        """Minus the distance to the k-th nearest."""
        assert self.bank is not None
        if not len(outputs.logits):
            return self.bank.new_zeros(0)
        asked = checked_directions(self.name, "features", outputs.features(self.layer))
        bank = self.bank.to(asked.device)
        distances = []
        for rows in blocks(len(asked), len(bank)):
            squared = _lengths(asked[rows]).unsqueeze(1) + _lengths(bank) - 2 * asked[rows] @ bank.T
            distances.append(squared.kthvalue(min(self.k, len(bank)), dim=1).values.clamp(min=0).sqrt())
        return -torch.cat(distances)


def _lengths(directions: Float[Tensor, "rows d"]) -> Float[Tensor, " rows"]:
    """The squared lengths, exactly 1, or 0 of a feature that is 0, so that rounding doesn't order equal distances."""
    return (directions.square().sum(dim=1) > 0.5).to(directions.dtype)
