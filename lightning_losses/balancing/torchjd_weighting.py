"""Any of TorchJD's weightings of gradients, by their products, as a policy."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.balancing.base import GradientBalancing


class TorchJDWeighting(GradientBalancing):
    """Weighs gradients by a weighting of TorchJD's that takes their products, such as ``FairGradWeighting``.

    What TorchJD has and this library has not: DualProj, FairGrad, GradVac, Krum and others; ``pip install
    'lightning-losses[balancing]'`` brings it. What a weighting remembers or draws is its own: it is neither in
    checkpoints nor the same on several processes, so that only one without state or draws belongs here.

    Args:
        weighting: ``torchjd.aggregation``'s, called with the products [T, T] in double precision.
        shared: see `GradientBalancing`.

    Raises:
        ValueError: an aggregator, which takes the gradients themselves.

    Example:
        >>> def mean(gram):
        ...     return torch.full((len(gram),), 1 / len(gram))
        >>> TorchJDWeighting(mean).coefficients(torch.eye(2, dtype=torch.float64)).tolist()
        [0.5, 0.5]
    """

    weighting: Any

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.weighting) or hasattr(self.weighting, "gramian_weighting"):
            raise ValueError(
                f"{self.name}: weighting={self.weighting!r} came; give a weighting by products, such as "
                "torchjd.aggregation.UPGradWeighting()."
            )

    def coefficients(self, gram: Float[Tensor, "terms terms"]) -> Float[Tensor, " terms"]:
        """The weighting's."""
        return torch.as_tensor(self.weighting(gram)).detach().to(gram)
