"""Any weighting of TorchJD by the gradients' inner products, as a policy."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.balancing.base import GradientBalancing


class TorchJDWeighting(GradientBalancing):
    """Weighs gradients by a TorchJD weighting of their inner products, such as ``FairGradWeighting``.

    TorchJD has further weightings: DualProj, FairGrad, GradVac, Krum and others; install it with ``pip install
    'lightning-losses[balancing]'``. A weighting's state and random draws are not in checkpoints and not synchronised
    between processes, so use only weightings without state and draws.

    Args:
        weighting: a weighting of ``torchjd.aggregation``; it is called with the inner products [T, T] in double
            precision.
        shared: see `GradientBalancing`.

    Raises:
        ValueError: an aggregator, which needs the gradients themselves.

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
